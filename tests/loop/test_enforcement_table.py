"""``docs/enforcement.md`` says what the code does: its rows are compared with the doors' lists and the points."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from api import routing
from api.device import routes
from api.device.access import Verified, check_trust
from api.device.app import build
from lachan import trust
from lachan.enforcement import Level, Target
from lachan.errors import LachanError
from lachan.runtime import Runtime
from lachan.trust_view import Against, Standing, View
from pki import service
from pki.enforcement import CertificateHold
from pki.errors import HolderContained
from soar_playbooks.containment.effects import ANSWERS
from soar_playbooks.enforcement.mosquitto import ACLS, ROLES
from tests.pki.support import camera, contain, csr

PAGE = Path(__file__).parents[2] / "docs" / "enforcement.md"
ENROL = "POST /.well-known/est/simpleenroll"
NOT_OFFERED = {"POST /.well-known/est/fullcmc", "POST /.well-known/est/serverkeygen"}


def rows() -> dict[str, dict[Level, str]]:
    """First cell → level → what the page says."""
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    head, body = cells[0][1:], cells[2:]
    assert head == [str(level) for level in Level]
    return {row[0]: dict(zip(Level, row[1:], strict=True)) for row in body}


def told() -> dict[str, dict[Level, str]]:
    """Operation of the device door → level → what the page says."""
    found: dict[str, dict[Level, str]] = {}
    for cell, verdicts in rows().items():
        for operation in re.findall(r"`([A-Z]+ /[^`]*)`", cell):
            assert operation not in found, f"{operation} has two rows"
            found[operation] = verdicts
    return found


def row(start: str) -> dict[Level, str]:
    """The one row that begins so."""
    (found,) = (verdicts for cell, verdicts in rows().items() if cell.startswith(start))
    return found


def base(operation: str) -> str:
    """The operation that stands for its variants (note 1 of the page)."""
    return operation.replace("/{label}", "").replace("/{index}", "").replace("PUT /_bulk", "POST /_bulk")


def answer(level: Level) -> trust.Answer:
    """The decision that a level leads to."""
    return ANSWERS.get(level, trust.Answer.ALLOW)


def door_says(operation: str, level: Level) -> str:
    """What the device door's own guard does with an operation of a device under a level."""
    if operation in routes.OPEN:
        return "yes"
    said = answer(level)
    stands = None if said is trust.Answer.ALLOW else Standing(said, (Against(said, "containment", "r", "c"),))
    view = cast(View, SimpleNamespace(refusal=lambda _keys: None, standing=lambda _device: stands))
    device = cast(
        Verified, SimpleNamespace(device_id="d", keys=trust.CertificateKeys(tbs_sha256="t", issuer_serial="i"))
    )
    try:
        check_trust(view, device, operation=operation)
    except LachanError:
        return "no"
    return "yes"


def test_every_operation_of_the_device_door_stands_on_the_page(rt: Runtime) -> None:
    assert set(told()) == {base(operation) for operation in routing.operations(build(rt))}


@pytest.mark.parametrize("level", Level)
def test_the_page_says_what_the_device_door_does(rt: Runtime, level: Level) -> None:
    for operation in sorted(routing.operations(build(rt))):
        said = told()[base(operation)][level]
        if base(operation) in NOT_OFFERED:
            assert said == "none"
        elif base(operation) != ENROL:  # the door lets it pass, the authority judges: the next test
            assert said == door_says(operation, level), operation


def test_the_page_says_whom_the_authority_enrols(signer_rt: Runtime) -> None:
    for level in Level:
        cam = camera(signer_rt, f"cam-{level}")
        contain(signer_rt, cam.id, answer(level))
        words: dict[str, Any] = {"device_name": cam.name, "secret": cam.secret, "csr_der": csr(), "source": "test"}
        if told()[ENROL][level] == "yes":
            service.enrol(signer_rt, **words)
        else:
            with pytest.raises(HolderContained):
                service.enrol(signer_rt, **words)


def test_the_page_says_what_the_points_do(signer_rt: Runtime) -> None:
    cam = camera(signer_rt)
    service.enrol(signer_rt, device_name=cam.name, secret=cam.secret, csr_der=csr(), source="test")
    target = Target(device_id=cam.id, name=cam.name, vendor="Vendor", site="hoan-kiem")
    held = {level: bool(CertificateHold(signer_rt).plan(signer_rt, target, level)) for level in Level}
    assert row("certificate status") == {level: "on hold" if held[level] else "good" for level in Level}
    words = {None: "as always", "quarantine": "`remediation/#`", "isolate": "nothing"}
    assert row("Mosquitto") == {level: words[ROLES.get(level)] for level in Level}
    assert {acl["topic"] for acl in ACLS["quarantine"] if acl["allow"]} == {"remediation/#"}
    assert not [acl for acl in ACLS["isolate"] if acl["allow"]]
