"""Four verdicts, each with its reason; silence is never a pass."""

from __future__ import annotations

import dataclasses
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lachan import clock
from posture.catalogue import CriterionCondition, catalogue
from posture.evaluate import (
    IMPLEMENTED,
    OBSERVED_FOR,
    Basis,
    Declaration,
    Result,
    Verdict,
    evaluate,
    holds,
    legal_day,
)  # fmt: skip
from posture.probes.observation import Observation, Outcome, observe

DAY = date(2026, 11, 22)
GOOD: dict[str, Any] = {
    "vendor": "acme", "model": "C1", "issued": "2026-10-01",
    "ports": [{"port": 443, "protocol": "https"}, {"port": 322, "protocol": "rtsps"}],
    "authentication": {
        "preset_password": "unique_per_device", "password_generator": "random", "change_forced_at_first_use": True,
        "user_can_change": True, "mechanisms": ["digest-sha-256"], "required_for_configuration": True,
    },
    "support": {"end": "2031-12-31", "url": "https://acme.example/support"},
    "vulnerability_disclosure": {
        "url": "https://acme.example/security", "contact": "psirt@acme.example", "acknowledge_days": 5, "update_days": 30,
        "advisories_url": "https://acme.example/advisories",
    },
    "update": {"mechanism": "automatic", "signed": True, "signature_algorithm": "ecdsa-p256", "notifies": True},
    "storage": {"secrets": "hardware", "hard_coded_secrets": False, "keys_unique_per_device": True},
    "encryption": {"minimum_tls": "1.2", "administration": "tls", "media": "rtsps"},
    "disclosure": {"without_login": "none"}, "debug_interfaces": "none", "sensors": ["image"],
    "telemetry": ["none"], "privacy": {"url": "https://acme.example/privacy", "data_location": ["VN"]},
    "factory_reset": True, "manual_url": "https://acme.example/manual",
}  # fmt: skip


def declaration(**changes: Any) -> Declaration:
    document = {k: v for k, v in {**GOOD, **changes}.items() if v is not None}
    return Declaration("d", "f" * 64, document)


def quiet(*, outcome: Outcome = Outcome.SILENT, code: str = "nothing_found") -> list[Observation]:
    """Every probe of ours looked and found nothing."""
    return [observe(name, outcome, code, "looked") for name in sorted(IMPLEMENTED)]


def judge(
    observations: list[Observation], declared: Declaration | None = None, *, as_of: date = DAY
) -> dict[str, Verdict]:
    return {v.criterion: v for v in evaluate(catalogue(), observations, declared, as_of=as_of, at=clock.now())}


def replaced(probe: str, outcome: Outcome, code: str = "x", **more: Any) -> list[Observation]:
    return [o for o in quiet() if o.probe != probe] + [observe(probe, outcome, code, "said", **more)]


def test_silence_is_never_a_pass() -> None:
    for seen in ([], quiet(), quiet(code="no_service"), quiet(outcome=Outcome.ERROR, code="probe_error")):
        verdicts = judge(seen)
        assert {v.result for v in verdicts.values()} == {Result.UNKNOWN}
        assert all(v.reason and v.detail for v in verdicts.values())


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from([o for o in Outcome if o is not Outcome.CONFIRMS]),
        min_size=len(IMPLEMENTED),
        max_size=len(IMPLEMENTED),
    )
)
def test_nothing_but_confirmation_or_declaration_passes(outcomes: list[Outcome]) -> None:
    seen = [observe(name, outcome, "x", "y") for name, outcome in zip(sorted(IMPLEMENTED), outcomes, strict=True)]
    assert all(v.result is not Result.PASS for v in judge(seen).values())


def test_refute_only_without_declaration() -> None:
    verdicts = judge(quiet())
    for row in ("CAM-1.1", "CAM-5.2", "CAM-5.3", "CAM-6.2", "CAM-6.3"):
        assert (verdicts[row].result, verdicts[row].reason) == (Result.UNKNOWN, "no_declaration"), row


def test_declared_and_tested_passes_as_declared() -> None:
    verdict = judge(quiet(), declaration())["CAM-1.1"]
    assert (verdict.result, verdict.reason, verdict.basis) == (Result.PASS, "declared_and_tested", Basis.DECLARED)
    assert "f" * 64 in verdict.evidence
    assert len(verdict.evidence) == 2
    assert verdict.valid_until is not None


def test_declared_but_never_looked_at() -> None:
    assert (judge([], declaration())["CAM-1.1"].result, judge([], declaration())["CAM-1.1"].reason) == (
        Result.UNKNOWN,
        "no_engagement",
    )


def test_what_was_seen_beats_what_was_declared() -> None:
    seen = replaced("cred.default_http", Outcome.CONTRADICTS, "default_login_accepted", port=80)
    verdict = judge(seen, declaration())["CAM-1.1"]
    assert (verdict.result, verdict.reason, verdict.basis) == (Result.FAIL, "default_login_accepted", Basis.OBSERVED)
    assert "its declaration says otherwise" in verdict.detail


@pytest.mark.parametrize(
    ("outcome", "code", "reason"),
    [
        (Outcome.UNREACHABLE, "timeout", "unreachable"),
        (Outcome.NOT_AUTHORISED, "outside_window", "not_authorised"),
        (Outcome.NOT_TRIED, "lockout_declared", "lockout_declared"),
        (Outcome.ERROR, "time_box", "time_box"),
    ],
)
@pytest.mark.parametrize("declared", [None, declaration()])
def test_what_could_not_be_looked_at_is_unknown(
    outcome: Outcome, code: str, reason: str, declared: Declaration | None
) -> None:
    verdict = judge(replaced("cred.default_http", outcome, code), declared)["CAM-1.1"]
    assert (verdict.result, verdict.reason) == (Result.UNKNOWN, reason)


def test_confirmed_by_observation_alone() -> None:
    verdict = judge(replaced("tls.versions", Outcome.CONFIRMS))["HN-V1-tls"]
    assert (verdict.result, verdict.reason, verdict.basis) == (Result.PASS, "confirmed", Basis.OBSERVED)


def test_partly_confirmed_is_not_confirmed() -> None:
    seen = [observe(name, Outcome.CONFIRMS, "ok", "ok") for name in sorted(IMPLEMENTED)]
    verdict = judge(seen)["CAM-5.1"]
    assert (verdict.result, verdict.reason) == (Result.UNKNOWN, "no_declaration")
    assert "mqtt.tls" in verdict.detail


def test_one_bad_port_outweighs_a_good_one() -> None:
    seen = [
        *replaced("tls.versions", Outcome.CONFIRMS, port=443),
        observe("tls.versions", Outcome.CONTRADICTS, "old_tls_accepted", "TLS 1.0", port=8443),
    ]
    assert judge(seen)["HN-V1-tls"].reason == "old_tls_accepted"


def test_records_of_other_rooms_are_not_implemented() -> None:
    verdicts = judge(quiet(), declaration())
    for row in (
        "CAM-3.5",
        "CAM-3.1",
        "CAM-3.3",
        "CAM-11.7",
        "HN-V1-x509",
        "HN-L2-ota",
        "CAM-4.3",
        "CAM-7.1",
        "CAM-10.1",
    ):
        assert (verdicts[row].result, verdicts[row].reason) == (Result.UNKNOWN, "not_implemented"), row
        assert "not implemented yet" in verdicts[row].detail


def test_documents_pass_as_declared_and_people_are_asked_for() -> None:
    verdicts = judge([], declaration())
    for row in ("CAM-2.1", "CAM-3.6", "CAM-7.2", "CAM-11.1", "CAM-9.1"):
        assert (verdicts[row].result, verdicts[row].basis) == (Result.PASS, Basis.DECLARED), row
    assert verdicts["CAM-11.2"].reason == "needs_human"
    assert judge([])["CAM-2.1"].reason == "no_declaration"


@pytest.mark.parametrize(
    ("change", "row"),
    [
        ({"support": {"end": "2026-11-22", "url": "https://a.example"}}, "CAM-3.6"),
        ({"authentication": {"preset_password": "universal"}}, "CAM-1.1"),
        ({"update": {"mechanism": "none", "signed": False}}, "CAM-3.1"),
        ({"debug_interfaces": "enabled"}, "CAM-6.3"),
        ({"privacy": {"data_location": ["VN", "US"]}}, "CAM-11.5"),
        ({"encryption": {"minimum_tls": "1.0"}}, "CAM-5.1"),
    ],
)
def test_a_declaration_can_admit_a_fault(change: dict[str, Any], row: str) -> None:
    verdict = judge(quiet(), declaration(**change))[row]
    assert (verdict.result, verdict.reason, verdict.basis) == (Result.FAIL, "declared_fault", Basis.DECLARED)


def test_not_applicable_by_declaration() -> None:
    verdict = judge([], declaration(authentication={"preset_password": "none"}))["CAM-1.2"]
    assert (verdict.result, verdict.reason) == (Result.NOT_APPLICABLE, "declared_not_applicable")


def test_undeclared_ports() -> None:
    sweep = observe("net.port_sweep_vs_ixit", Outcome.SILENT, "ports_seen", "open")
    rest = [o for o in quiet() if o.probe != "net.port_sweep_vs_ixit"]
    bad = judge([*rest, dataclasses.replace(sweep, ports=(23, 443))], declaration())["CAM-6.1"]
    assert (bad.result, bad.reason) == (Result.FAIL, "undeclared_port")
    assert "23" in bad.detail
    assert "443" not in bad.detail
    good = judge([*rest, dataclasses.replace(sweep, ports=(443,))], declaration())["CAM-6.1"]
    assert (good.result, good.basis) == (Result.PASS, Basis.DECLARED)


def test_a_day_before_the_law() -> None:
    verdicts = judge([], as_of=date(2026, 6, 30))
    assert (verdicts["CAM-11.7"].result, verdicts["CAM-11.7"].reason) == (Result.NOT_APPLICABLE, "not_in_force")
    assert judge([], as_of=date(2026, 7, 1))["CAM-11.7"].result is Result.UNKNOWN
    assert verdicts["CAM-1.1"].result is Result.UNKNOWN, "QCVN 135 asked for it already"


def test_the_legal_day_is_that_of_hanoi() -> None:
    assert legal_day(datetime(2026, 6, 30, 16, 59, 59, tzinfo=UTC)) == date(2026, 6, 30)
    assert legal_day(datetime(2026, 6, 30, 17, 0, 0, tzinfo=UTC)) == date(2026, 7, 1)


def test_evidence_expires() -> None:
    seen = replaced("tls.versions", Outcome.CONFIRMS)
    verdict = judge(seen)["HN-V1-tls"]
    later = clock.now() + OBSERVED_FOR
    assert verdict.at(clock.now()).result is Result.PASS
    assert (verdict.at(later).result, verdict.at(later).reason) == (Result.UNKNOWN, "stale")
    with clock.travel(OBSERVED_FOR + timedelta(seconds=1)):
        assert judge(seen)["HN-V1-tls"].reason == "no_engagement"


@pytest.mark.parametrize(
    ("test", "value", "document", "answer"),
    [
        ("present", True, {"a": {"b": "x"}}, True), ("present", True, {"a": {"b": []}}, False),
        ("present", True, {"a": {"b": 0}}, True), ("present", True, {"a": {}}, None), ("present", True, {"a": 1}, None),
        ("is", True, {"a": {"b": True}}, True), ("is", True, {"a": {"b": False}}, False),
        ("in", ["x", "y"], {"a": {"b": "y"}}, True), ("in", ["x"], {"a": {"b": "y"}}, False),
        ("future", True, {"a": {"b": "2026-11-23"}}, True), ("future", True, {"a": {"b": "2026-11-22"}}, False),
        ("at_most", 3, {"a": {"b": 3}}, True), ("at_most", 3, {"a": {"b": 4}}, False),
    ],
)  # fmt: skip
def test_lines_on_a_declaration(test: str, value: Any, document: dict[str, Any], answer: bool | None) -> None:
    assert holds(CriterionCondition("a.b", test, value), document, as_of=DAY) is answer


def test_an_unknown_line_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="unknown test"):
        holds(CriterionCondition("a", "guess", 1), {"a": 1}, as_of=DAY)


def test_fifty_rows_fifty_verdicts() -> None:
    assert len(judge(quiet(), declaration())) == 50
