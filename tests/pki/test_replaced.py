"""A replaced certificate is superseded when the new one is first shown, never by time alone; who shows it then may be a clone."""

import base64
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7

from lachan import clock
from lachan.errors import DatabaseAway
from lachan.runtime import Runtime
from pki import service
from tests.pki.doors import Doors, open_doors
from tests.pki.support import ADMIN, Camera, camera, csr, facts, key
from tests.support.wait import until

SELF = "/device/v1/self"
PKCS10 = {"Content-Type": "application/pkcs10"}
Shown = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


@pytest.fixture
def doors(signer_rt: Runtime, tmp_path: Path) -> Iterator[Doors]:
    with open_doors(signer_rt, tmp_path / "clients") as found:
        yield found


def enrolled(doors: Doors, cam: Camera, secret: str | None = None) -> Shown:
    mine = key()
    with doors.client() as client:
        answer = client.post(
            "/.well-known/est/simpleenroll", content=csr(mine), headers=PKCS10, auth=(cam.name, secret or cam.secret)
        )
    return pkcs7.load_der_pkcs7_certificates(base64.b64decode(answer.raise_for_status().content))[0], mine


def renewed(doors: Doors, old: Shown) -> Shown:
    mine = key()
    request = csr(mine, subject=old[0].subject)
    with doors.client(*old) as client:
        answer = client.post("/.well-known/est/simplereenroll", content=request, headers=PKCS10)
    return pkcs7.load_der_pkcs7_certificates(base64.b64decode(answer.raise_for_status().content))[0], mine


def ask(doors: Doors, shown: Shown) -> tuple[int, str]:
    with doors.client(*shown) as client:
        answer = client.get(SELF)
    return answer.status_code, answer.json().get("reason", "")


def states(rt: Runtime, cam: Camera) -> list[tuple[str, str]]:
    """Oldest first."""
    return [(row.state, row.reason) for row in reversed(service.certificates_of(rt, ADMIN, cam.id))]


def fresh_secret(rt: Runtime, cam: Camera) -> str:
    with rt.db.write() as connection:
        return service.issue_secret(rt, connection, ADMIN, cam.id).secret


GOOD = (200, "")
REPLACED = (403, "superseded")


def test_the_old_one_serves_until_the_new_one_is_shown(signer_rt: Runtime, doors: Doors) -> None:
    cam, neighbour = camera(signer_rt), camera(signer_rt, "cam-2")
    first, other = enrolled(doors, cam), enrolled(doors, neighbour)
    assert ask(doors, first) == GOOD and ask(doors, other) == GOOD
    second = renewed(doors, first)
    assert ask(doors, first) == GOOD  # the answer with the new one may have been lost
    third = renewed(doors, first)
    assert ask(doors, first) == GOOD
    with doors.client(*first) as held:
        assert held.get(SELF).status_code == 200
        assert ask(doors, third) == GOOD

        def cut() -> bool:
            try:
                return held.get(SELF).status_code == 403
            except httpx.TransportError:
                return True

        until(cut, timeout=5)
    assert ask(doors, first) == REPLACED
    assert ask(doors, second) == REPLACED  # it was never used, and never will be
    assert ask(doors, third) == GOOD and ask(doors, other) == GOOD
    replaced = ("revoked", "superseded")
    assert states(signer_rt, cam) == [replaced, replaced, ("valid", "")]
    assert states(signer_rt, neighbour) == [("valid", "")]
    with doors.client(*first) as client:
        answer = client.post("/.well-known/est/simplereenroll", content=csr(subject=first[0].subject), headers=PKCS10)
    assert answer.status_code == 403


def test_a_device_that_was_reset_supersedes_what_it_lost(signer_rt: Runtime, doors: Doors) -> None:
    cam = camera(signer_rt)
    lost = enrolled(doors, cam)
    assert ask(doors, lost) == GOOD
    found = enrolled(doors, cam, fresh_secret(signer_rt, cam))
    assert ask(doors, lost) == GOOD
    assert ask(doors, found) == GOOD
    assert ask(doors, lost) == REPLACED


def test_who_shows_a_replaced_one_is_told_once_a_day(
    signer_rt: Runtime, doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    cam = camera(signer_rt)
    first = enrolled(doors, cam)
    second = renewed(doors, first)
    assert ask(doors, second) == GOOD
    assert facts(signer_rt, "PossibleCloneSeen") == []
    for _ in range(3):
        assert ask(doors, first) == REPLACED
    told = until(lambda: facts(signer_rt, "PossibleCloneSeen"), timeout=10)[0]
    assert told.device_id == cam.id
    assert told.event.serial_number == f"{first[0].serial_number:x}"
    assert told.event.address == "127.0.0.1"
    old = service.certificates_of(signer_rt, ADMIN, cam.id)[1].fingerprint

    def seen() -> bool:
        with signer_rt.db.write() as connection:
            return service.clone_seen(connection, ADMIN, fingerprint=old, address="192.0.2.9")

    assert not seen()
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now + timedelta(days=1, minutes=1))
    assert seen()
    assert len(facts(signer_rt, "PossibleCloneSeen")) == 2
    with signer_rt.db.write() as connection:  # one in force, and one that nobody knows, are no clones
        for one in (service.certificates_of(signer_rt, ADMIN, cam.id)[0].fingerprint, "00" * 32):
            assert not service.clone_seen(connection, ADMIN, fingerprint=one, address="")


def test_what_was_dated_by_a_clock_ahead_is_superseded_too(signer_rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    cam, now = camera(signer_rt), clock.now()
    with monkeypatch.context() as ahead:
        ahead.setattr(clock, "now", lambda: now + timedelta(hours=1))
        cam.enrol(signer_rt, csr())
        shown(signer_rt, cam, 0)
    cam.enrol(signer_rt, csr(), fresh_secret(signer_rt, cam))
    mine = {row.serial_number for row in service.certificates_of(signer_rt, ADMIN, cam.id)}
    assert len(mine) == 2
    shown(signer_rt, cam, *range(2))
    assert sorted(state for state, _ in states(signer_rt, cam)) == ["revoked", "valid"]


def shown(rt: Runtime, cam: Camera, *places: int) -> None:
    """Show a device's certificates, newest id first, as the door does."""
    from pki.models import certificates

    with rt.db.write() as connection:
        query = certificates.select().where(certificates.c.device_id == cam.id).order_by(certificates.c.id)
        rows = connection.execute(query).all()
        for place in places:
            service.first_shown(rt, connection, ADMIN, device_id=cam.id, certificate_id=rows[place].id)


def test_a_database_that_takes_no_write_refuses_no_certificate_that_holds(
    signer_rt: Runtime, doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    cam = camera(signer_rt)
    first = enrolled(doors, cam)

    def away(*_: object, **__: object) -> None:
        raise DatabaseAway("full")

    with monkeypatch.context() as full:
        full.setattr(service, "first_shown", away)
        assert ask(doors, first) == GOOD
    second = renewed(doors, first)
    assert ask(doors, second) == GOOD
    assert ask(doors, first) == REPLACED


def test_a_held_one_is_superseded_and_stays_refused(signer_rt: Runtime, doors: Doors) -> None:
    """A suspension of the old one is no way to keep it for later."""
    cam = camera(signer_rt)
    first = enrolled(doors, cam)
    second = renewed(doors, first)
    with signer_rt.db.write() as connection:
        serial = f"{first[0].serial_number:x}"
        service.suspend(signer_rt, connection, ADMIN, device_id=cam.id, reason="lost", serial_number=serial)
    assert ask(doors, first) == (403, "suspended")
    assert ask(doors, second) == GOOD
    assert ask(doors, first) == REPLACED
    with signer_rt.db.write() as connection:
        service.release(signer_rt, connection, ADMIN, device_id=cam.id, reason="found")
    assert ask(doors, first) == REPLACED
