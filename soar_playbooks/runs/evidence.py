"""What a run knows of its alerts: the facts that its guards see, and its variables; and what further alerts add to them.

Severity and outcome are the gravest of any alert, the independent sources those of the alert that has the most (that two
alerts name different senders makes no two sources of one thing), the senders all of them; those who proved success stand apart,
for each of them is ground enough for a cut, and is asked for its own budget. Limits:
`shown.MOST` alerts are kept by their ids, of further ones only the number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lachan.devices import Device
from lachan.events import AlertRaised
from lachan.work.jobs import Gravity
from soar_playbooks.cacao.model import Playbook
from soar_playbooks.containment.shown import MOST, alerts_of

SENDERS = 50
_GROWS = ("severity", "outcome", "sources")


@dataclass(frozen=True)
class Gathered:
    """What alerts say together.

    Attributes:
        facts: as a run keeps them; those of `soar_playbooks.containment.guards.Facts` are among them.
        new: ids of the alerts that were not known before and are kept.
        changed: whether people would see anything else than before.
        raised: whether severity, outcome or sources are graver than before.
    """

    facts: dict[str, Any]
    new: tuple[str, ...] = ()
    changed: bool = False
    raised: bool = False


def of(alerts: Iterable[AlertRaised]) -> Gathered:
    """Put alerts of one device together; the first is the one that a run is named after."""
    first, *others = alerts
    facts = {
        "device_id": first.device_id, "subject_bound": first.subject_bound, "outcome": first.outcome,
        "sources": first.sources, "senders": list(first.senders)[:SENDERS], "rule_id": first.rule_id,
        "rule_title": first.rule_title, "alert_id": first.alert_id, "severity": first.severity, "site": first.site,
        "tags": list(first.tags), "alerts": [first.alert_id], "proved": _kept(first.device_id, _proved(first)),
    }  # fmt: skip
    return more(facts, others) if others else Gathered(facts, (first.alert_id,))


def more(before: Mapping[str, Any], alerts: Iterable[AlertRaised]) -> Gathered:
    """Add alerts to the facts of a run; the rule is that of the one that made them graver last."""
    facts, new = {**before, "alerts": alerts_of(before), "senders": list(before["senders"])}, list[str]()
    facts["proved"] = list(before.get("proved", ()))
    unkept = 0
    for alert in alerts:
        if _graver(facts, alert):
            facts |= {
                "severity": max(str(facts.get("severity", "")), alert.severity, key=Gravity.of),
                "outcome": "success" if "success" in {facts["outcome"], alert.outcome} else alert.outcome,
                "sources": max(facts["sources"], alert.sources), "rule_id": alert.rule_id,
            }  # fmt: skip
        facts["senders"] += [sender for sender in alert.senders if sender not in facts["senders"]]
        facts["proved"] += [sender for sender in _proved(alert) if sender not in facts["proved"]]
        if alert.alert_id in facts["alerts"]:
            continue
        if len(facts["alerts"]) < MOST:
            facts["alerts"].append(alert.alert_id)
            new.append(alert.alert_id)
        else:
            unkept += 1
    facts["senders"], facts["proved"] = facts["senders"][:SENDERS], _kept(facts["device_id"], facts["proved"])
    if unkept:
        facts["more"] = int(before.get("more", 0)) + unkept
    raised = any(facts.get(name) != before.get(name) for name in _GROWS)
    return Gathered(facts, tuple(new), changed=bool(new) or raised, raised=raised)


def _proved(alert: AlertRaised) -> list[str]:
    return list(alert.senders) if alert.outcome == "success" else []


def _kept(device_id: str | None, senders: list[str]) -> list[str]:
    """Keep the first `SENDERS`, the device itself before all others: however many speak of it, its own word is not lost."""
    return sorted(senders, key=lambda sender: sender != f"device:{device_id}")[:SENDERS]


def _graver(facts: Mapping[str, Any], alert: AlertRaised) -> bool:
    return (
        Gravity.of(alert.severity) > Gravity.of(facts.get("severity"))
        or (alert.outcome == "success" and facts["outcome"] != "success")
        or alert.sources > facts["sources"]
    )


def bind(playbook: Playbook, facts: Mapping[str, Any], device: Device) -> dict[str, Any]:
    """Give the run's variables at its start: the playbook's own, and the external ones from its alerts and device."""
    inputs = {
        "__alert__": facts["alert_id"], "__rule__": facts["rule_id"], "__severity__": facts["severity"],
        "__device__": device.id, "__site__": device.site, "__criticality__": str(device.criticality),
        **_growing(facts), "__subject_bound__": facts["subject_bound"],
    }  # fmt: skip
    return {
        name: inputs[name] if variable.external else variable.value for name, variable in playbook.variables.items()
    }


def rebind(playbook: Playbook, variables: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Give a run's variables after alerts have joined it: only what can grow is another."""
    grown = _growing(facts)
    external = {name for name, variable in playbook.variables.items() if variable.external}
    return {name: grown[name] if name in grown and name in external else value for name, value in variables.items()}


def _growing(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {"__severity__": facts["severity"], "__outcome__": facts["outcome"], "__sources__": facts["sources"]}
