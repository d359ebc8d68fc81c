"""The words for codes, and the sentences for facts; the catalogue has them in Vietnamese (words of the glossary).

A code without a word here is shown as it is: nothing disappears because nobody named it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from markupsafe import Markup

from api.people.console import markup
from api.people.console.events import PARTS, SENTENCES
from api.people.console.language import N_, pgettext
from lachan import clock

Translate = Callable[[str], str]
_CODES = {
    "level": "level", "severity": "severity", "outcome": "outcome", "mode": "mode", "guard": "guard", "verdict": "finding",
    "before": "verdict", "after": "verdict", "criticality": "criticality",
}  # fmt: skip
_LONG = re.compile(r"[0-9a-f]{24,}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|playbook--[0-9a-f-]{36}")
# Book-keeping inside an enforcement point's evidence, which tells a reader nothing.
NOISE = frozenset({"intent", "attempts", "settled", "acted_for", "redundant", "level", "observed_at"})
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_ACTORS = frozenset({"person", "token", "system", "collector"})

# State by shape and word as well as colour.
SHAPES = {"allow": "●", "limited": "◐", "quarantine": "■", "deny": "✕", "unknown": "?"}

NEVER = N_("never")
JUST_NOW = N_("just now")
PAST = N_("%(span)s ago")
AHEAD = N_("in %(span)s")
# Singular, plural, and the seconds from which it is used.
SPANS = (
    (N_("%(n)s day"), N_("%(n)s days"), 172800),
    (N_("%(n)s h"), N_("%(n)s h"), 5400),
    (N_("%(n)s min"), N_("%(n)s min"), 90),
    (N_("%(n)s s"), N_("%(n)s s"), 0),
)

# What a page says after a form was taken.
SAID = {
    "acknowledged": N_("You have taken the alert on."),
    "assigned": N_("The alert is assigned."),
    "commented": N_("Your comment stands below."),
    "closed": N_("The alert is closed."),
    "approved": N_("Your approval is recorded."),
    "rejected": N_("Your rejection is recorded."),
    "resolved": N_("What you found is recorded; the run goes on."),
    "released": N_("Your approval of the release is recorded."),
    "proposed": N_("The containment is proposed; another person must approve it."),
    "published": N_("The release is published."),
    "halted": N_("The release is halted: no device gets it any more."),
    "resumed": N_("The release is handed out again."),
    "stopped": N_("Automatic containment is stopped everywhere."),
    "allowed": N_("Automatic containment is allowed again."),
}

# What a refused person reads; the rest shows title and hint as the error has them.
REFUSALS = {
    "not-found": N_("There is nothing here that you may see. It may have moved, or belong to another manufacturer."),
    "alert-unknown": N_("There is no such alert that you may see."),
    "unknown-run": N_("There is no such run that you may see."),
    "unknown-containment": N_("There is no such containment that you may see."),
    "no-such-release": N_("There is no such firmware release that you may see."),
    "forbidden": N_("Your role does not allow this. An administrator can give you the role that does."),
    "person-needed": N_("Only a person in their own session may do this; sign in with your own link."),
    "bad-csrf": N_("The form is no longer good. Go back, reload the page and send it again."),
    "bad-link": N_("This sign-in link was used or is older than 15 minutes. Ask an administrator for a new one."),
    "four-eyes": N_("Two different persons must decide, and you have proposed or decided this already."),
    "own-proposal": N_("You proposed this release; other persons must approve it."),
    "not-waiting": N_("This waits for nobody any more; somebody else has decided, or it has ended."),
    "shown-changed": N_(
        "Since you looked, alerts came or what is asked has changed. Read it again before you approve."
    ),
    "release-not-possible": N_("This containment is not in effect, so there is nothing to release."),
    "digest-moved": N_("The release is no longer what you were shown. Read it again before you approve."),
    "wrong-state": N_("This does not fit the present state. Read the page again, then decide."),
    "alert-closed-already": N_("The alert is closed already."),
    "invalid": N_("Something in the form is missing or wrong; the line below names it."),
    "no-session": N_("You are signed out."),
}

LABELS: dict[str, dict[str, str]] = {
    "answer": {
        "allow": N_("allow"),
        "limited": N_("limited"),
        "quarantine": N_("quarantine"),
        "deny": N_("deny"),
        "unknown": N_("unknown"),
    },
    "verdict": {
        "pass": N_("pass"),
        "fail": N_("fail"),
        "not_applicable": N_("not applicable"),
        "unknown": pgettext("verdict", "unknown"),
    },
    "level": {
        "observe": N_("observe"),
        "degrade": N_("degrade"),
        "quarantine": N_("quarantine"),
        "isolate": N_("isolate"),
        "evict": N_("evict"),
    },
    # What a level does to a device, for the label of the button that brings it about.
    "action": {
        "observe": N_("Watch %(name)s closely"),
        "degrade": N_("Limit %(name)s"),
        "quarantine": N_("Cut off %(name)s"),
        "isolate": N_("Isolate %(name)s"),
        "evict": N_("Evict %(name)s for good"),
    },
    "state": {
        "registered": N_("registered, not enrolled"),
        "enrolled": N_("enrolled"),
        "retired": N_("retired"),
        "valid": N_("valid"),
        "held": N_("suspended"),
        "revoked": N_("revoked"),
        "expired": N_("expired"),
        "open": N_("open"),
        "acknowledged": N_("acknowledged"),
        "closed": N_("closed"),
        "ready": N_("ready"),
        "running": N_("running"),
        "waiting": N_("waiting"),
        "ended": N_("ended"),
        "active": N_("in effect"),
        "rejected": N_("rejected"),
        "pending": N_("under way"),
        "settled": N_("seen in effect"),
        "proposed": N_("proposed"),
        "approved": N_("approved"),
        "signed": N_("signed"),
        "published": N_("published"),
        "halted": N_("halted"),
        "requested": N_("requested"),
        "stopped": N_("stopped"),
    },
    "criticality": {
        "normal": N_("normal"),
        "essential": N_("essential"),
        "life_safety": N_("life-safety"),
        "unknown": N_("unknown (counts as essential)"),
    },
    "severity": {
        "critical": N_("critical"),
        "high": N_("high"),
        "medium": N_("medium"),
        "low": N_("low"),
        "informational": N_("informational"),
    },
    "outcome": {
        "success": N_("success proven"),
        "attempt": N_("attempt only"),
        "succeeded": N_("succeeded"),
        "failed": N_("failed"),
        "rejected": N_("rejected"),
        "refused": N_("refused"),
        "": N_("not ended"),
    },
    "finding": {
        "true_positive": N_("true: it happened"),
        "false_positive": N_("false: the rule was wrong"),
        "benign": N_("benign: it happened and was meant to"),
        "duplicate": N_("duplicate"),
        "": N_("not decided"),
    },
    "guard": {
        "propose": N_("the playbook is in propose mode"),
        "proposed": N_("a person proposed it; another must approve"),
        "kill-switch": N_("the kill switch is on"),
        "life-safety": N_("the device is life-safety"),
        "essential": N_("the device is essential"),
        "unknown-criticality": N_("its criticality is unknown, which counts as essential"),
        "budget": N_("the budget of automatic containments is spent"),
        "evict": N_("evicting is decided by people"),
        "outcome-unknown": N_("nobody knows whether the last step happened"),
    },
    "mode": {"propose": N_("propose mode"), "enforce": N_("enforce mode"), "off": N_("off")},
    "decision": {"approve": N_("approved"), "reject": N_("rejected")},
    "source": {
        "containment": N_("containment"),
        "posture": N_("posture"),
        "registry": N_("registry"),
        "pki": N_("certificate"),
    },
    "check": {
        "database": N_("the database"),
        "disk": N_("the disk"),
        "clock": N_("the clock"),
        "work": N_("due work"),
        "sealing": N_("sealing of the ledger"),
        "signer": N_("the signer"),
        "crl": N_("the revocation lists"),
        "tuf": N_("the firmware metadata"),
        "detector": N_("the detector"),
        "reconciler": N_("enforcement of containments"),
        "health": N_("the checks themselves"),
    },
    "role": {
        "analyst": N_("analyst"),
        "approver": N_("approver"),
        "manufacturer": N_("manufacturer"),
        "auditor": N_("auditor"),
        "admin": N_("administrator"),
        "platform": N_("platform"),
        "collector": N_("collector"),
        "device": N_("device"),
    },
    "kind": {
        "certificate": N_("certificate"),
        "firmware": N_("firmware"),
        "log": N_("log"),
        "alert": N_("alert"),
        "verdict": N_("verdict"),
        "containment": N_("containment"),
        "people": N_("people"),
        "other": N_("other"),
    },
    "by": {
        "vendor": N_("manufacturer"),
        "ward": N_("ward"),
        "site": N_("site"),
        "model": N_("model"),
        "criterion": N_("criterion"),
    },
    "authority": {"root": N_("root"), "issuing": N_("issuing authority")},
    "basis": {
        "observed": N_("observed"),
        "declared": N_("declared"),
        "recorded": N_("recorded"),
        "attested": N_("attested"),
        "certified": N_("certified"),
        "human": N_("a person"),
        "catalogue": N_("the catalogue"),
        "none": N_("none"),
    },
}


def label(translate: Translate, kind: str, code: Any) -> str:
    """Give the word for a code; the code itself where there is none."""
    text = LABELS.get(kind, {}).get(str(code))
    return translate(text).rpartition("\4")[2] if text else str(code)


def sentence(translate: Translate, name: str, data: Mapping[str, Any] | None) -> Markup:
    """Give a fact as a sentence; what stands in its fields is inert."""
    if data is None:
        return Markup("<em>{}</em>").format(
            translate(N_("The body of this fact was erased; its place in the ledger stays."))
        )
    known = SENTENCES.get(name)
    if known is None:
        return Markup("{} {}").format(name, markup.inert({key: value for key, value in data.items() if value}))
    fields = {key: Markup("<b>{}</b>").format(_value(translate, key, value)) for key, value in data.items()}
    text = PARTS.get(name, known[1]) if data.get("chunk") is not None else known[1]
    return Markup(translate(text)) % _Fields(fields)  # noqa: S704 - a sentence of our catalogue; % escapes


def _value(translate: Translate, key: str, value: Any) -> Markup | str:
    """Give a field of a fact: its word where it is a code, short where it is an id or a time, inert in any case."""
    if isinstance(value, dict):
        said = (f"{name} {markup.plain(inner)}" for name, inner in sorted(value.items()) if name not in NOISE)
        return markup.inert(", ".join(said), 300)
    if key in _CODES and str(value) in LABELS[_CODES[key]]:
        return label(translate, _CODES[key], value)
    if isinstance(value, str) and _LONG.fullmatch(value):
        return markup.identifier(value)
    if isinstance(value, str) and _MOMENT.fullmatch(value):
        return markup.exact(clock.parse(value))
    if isinstance(value, str) and value.partition(":")[0] in _ACTORS:
        return markup.inert(value.partition(":")[2], 100)
    return markup.inert(value, 300)


def kind(name: str) -> str:
    """Tell which line of the timeline a fact belongs to."""
    known = SENTENCES.get(name)
    return known[0] if known else "other"


class _Fields(dict[str, Any]):
    """A field that an older fact does not have is shown as unknown."""

    def __missing__(self, key: str) -> str:
        return "?"
