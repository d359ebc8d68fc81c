"""Who gets through the device door, over real TLS."""

import base64
import socket
import ssl
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from api.device import access, routes
from api.device.trustwatch import TrustWatch
from api.models import door_anchors, door_closed, door_status
from lachan import clock, devices, trust
from lachan.trust import Answer, Signal
from lachan.trust_view import Changes, View
from lachan.work import outbox
from pki import service
from pki.issuing import record
from pki.models import certificates
from tests.api.support import SETUP, Authority, Credential, Town
from tests.support.wait import until

SELF = "/device/v1/self"


def contain(town: Town, device_id: str, answer: Answer) -> None:
    with town.rt.db.write() as connection:
        trust.set_signal(
            connection,
            Signal(
                device_id=device_id, source="containment", answer=answer, reason="test", ref="c1", since=clock.now()
            ),
        )


def release(town: Town, device_id: str) -> None:
    with town.rt.db.write() as connection:
        trust.clear_signal(connection, device_id=device_id, source="containment", ref="c1")


def ask(town: Town, credential=None, **more) -> httpx.Response:
    with town.client("device", credential) as client:
        return client.get(SELF, **more)


def test_a_device_learns_who_it_is(doors: Town) -> None:
    camera = doors.add_device("cam-1")
    answer = ask(doors, doors.authority.device(camera))
    assert answer.status_code == 200
    assert answer.json() | {"certificate_not_after": ""} == {
        "device_id": camera.id, "name": "cam-1", "vendor": "acme", "answer": "allow", "reasons": [],
        "certificate_not_after": "",
    }  # fmt: skip


def refuse(town: Town, device_id: str, credential: Credential, reason: str) -> None:
    """Tell trust, and nobody else, that a certificate must not be served."""
    with town.rt.db.write() as connection:
        trust.refuse_certificate(
            connection, keys=credential.keys, device_id=device_id, reason=reason,
            until=credential.certificate.not_valid_after_utc,
        )  # fmt: skip


def outcome(client: httpx.Client) -> str:
    """What a request on a kept connection meets: a status, or ``cut``."""
    try:
        return str(client.get(SELF).status_code)
    except (httpx.RemoteProtocolError, httpx.ReadError):
        return "cut"  # the door closed the connection under the request


def refusals(town: Town):
    """Every wrong certificate, with the status and reason that it earns."""
    camera = town.add_device("cam-1")
    stranger = Authority(town.folder, "stranger")
    urn = x509.UniformResourceIdentifier(f"urn:uuid:{camera.id}")
    good = town.authority
    with town.rt.db.write() as connection:
        devices.retire(connection, (retired := devices.register(
            connection, devices.NewDevice(name="old", vendor="acme", model="m", serial_number="o", site="s"), actor=SETUP
        )).id, "replaced", actor=SETUP)  # fmt: skip
        confused = good.device(camera, recorded=False)
        record(
            connection,
            {"certificate": confused.der, "authority": "issuing", "subject": "CN=old"},
            profile="camera",
            device_id=retired.id,
            actor=SETUP,
        )
    return {
        "nothing": (None, 401, None),
        "a stranger's": (stranger.device(camera), 403, "unknown-issuer"),
        "expired": (good.device(camera, start=timedelta(days=-9), end=timedelta(seconds=-5)), 403, "expired"),
        "not yet valid": (good.device(camera, start=timedelta(hours=1)), 403, "not-yet-valid"),
        "a server's": (good.device(camera, purposes=[ExtendedKeyUsageOID.SERVER_AUTH]), 403, "wrong-purpose"),
        "without purpose": (good.device(camera, purposes=[]), 403, "wrong-purpose"),
        "without name": (good.issue("cam-1", sans=[]), 403, "no-device-name"),
        "with two names": (good.issue("cam-1", sans=[urn, urn]), 403, "no-device-name"),
        "with no uuid": (good.issue("x", sans=[x509.UniformResourceIdentifier("urn:uuid:x")]), 403, "no-device-name"),
        "of nobody": (good.device("00000000-0000-7000-8000-000000000000", recorded=False), 403, "unknown-device"),
        "of a retired device": (good.device(retired), 403, "retired"),
        "signed and not recorded": (good.device(camera, recorded=False), 403, "unregistered"),
        "recorded for another device": (confused, 403, "unregistered"),
        "a twin": (good.device(camera).twin, 403, "unregistered"),
    }


def test_wrong_certificates_are_refused_with_their_reason(doors: Town) -> None:
    for name, (credential, status, reason) in refusals(doors).items():
        answer = ask(doors, credential)
        assert (answer.status_code, answer.json().get("reason")) == (status, reason), name
        assert answer.headers["content-type"] == "application/problem+json", name


def believe(town: Town, authority: Authority, vendor: str) -> None:
    """Make an authority one of the door's anchors."""
    with town.rt.db.write() as connection:
        connection.execute(
            door_anchors.insert().values(
                fingerprint="f", vendor=vendor, added_at=clock.now(),
                certificate=authority.certificate.public_bytes(Encoding.DER),
            )
        )  # fmt: skip
        trust.touch(connection)


def test_a_vendors_authority_speaks_for_that_vendors_devices_only(doors: Town) -> None:
    ours, theirs = doors.add_device("cam-1", vendor="acme"), doors.add_device("cam-2", vendor="bolt")
    bolt = Authority(doors.folder, "bolt")
    assert ask(doors, bolt.device(theirs)).json()["reason"] == "unknown-issuer"
    believe(doors, bolt, "bolt")
    until(lambda: ask(doors, bolt.device(theirs)).status_code == 200, timeout=5)
    assert ask(doors, bolt.device(ours)).json()["reason"] == "other-vendor"
    assert ask(doors, bolt.device(ours)).status_code == 403


def test_a_vendors_refused_certificate_is_refused_in_its_other_form_too(doors: Town) -> None:
    camera, bolt = doors.add_device("cam-1", vendor="bolt"), Authority(doors.folder, "bolt")
    credential, other = bolt.device(camera), bolt.device(camera)
    believe(doors, bolt, "bolt")
    until(lambda: ask(doors, credential.twin).status_code == 200, timeout=5)
    with doors.client("device", credential.twin) as client:
        assert client.get(SELF).status_code == 200
        refuse(doors, camera.id, credential, "revoked")
        until(lambda: outcome(client) in ("403", "cut"), timeout=5)
    for shown in (credential, credential.twin):
        until(lambda shown=shown: ask(doors, shown).json().get("reason") == "revoked", timeout=5)
    assert ask(doors, other).status_code == 200


def test_the_row_is_read_again_while_a_connection_lives(doors: Town) -> None:
    """A row that changed without a word to trust ends what it admitted, as soon as the view is renewed."""
    camera, c = doors.add_device("cam-1"), certificates.c
    for change, reason in (({"state": "revoked"}, "revoked"), ({"certificate": b"other bytes"}, "unregistered")):
        credential = doors.authority.device(camera)
        serial = f"{credential.certificate.serial_number:x}"
        with doors.client("device", credential) as client:
            assert client.get(SELF).status_code == 200
            with doors.rt.db.write() as connection:
                connection.execute(certificates.update().where(c.serial_number == serial).values(**change))
            until(lambda client=client: outcome(client) == "403", timeout=5)
            assert client.get(SELF).json()["reason"] == reason


def hold_the_row(town: Town, monkeypatch: pytest.MonkeyPatch, device_id: str, change: Callable[[], None]) -> list[str]:
    """Make one change between the reading of a row and the admission, and go on when the door's view has it."""
    read, tell, told, changed = service.registered, TrustWatch._tell, [], []

    def telling(watch: TrustWatch, changes: Changes) -> None:
        tell(watch, changes)
        told.extend(changes.devices)

    def slow(connection, certificate, **more):
        row = read(connection, certificate, **more)
        if not changed:
            changed.append(device_id)
            change()
            until(lambda: device_id in told, timeout=5)
        return row

    monkeypatch.setattr(TrustWatch, "_tell", telling)
    monkeypatch.setattr(service, "registered", slow)
    return changed


@pytest.mark.parametrize("proxied", [False, True])
def test_a_revocation_after_the_row_was_read_still_refuses(
    town: Town, monkeypatch: pytest.MonkeyPatch, proxied: bool
) -> None:
    """On a connection of the device's own, and behind a proxy, where none can be cut instead."""
    camera = town.add_device("cam-1")
    credential = town.authority.device(camera)
    header = {"Client-Cert": f":{base64.b64encode(credential.der).decode()}:"} if proxied else {}
    proxies = ("127.0.0.1",) if proxied else ()
    town.rt = type(town.rt)(town.rt.settings.model_copy(update={"proxies": proxies}), town.rt.db, town.rt.wiring)
    changed = hold_the_row(
        town, monkeypatch, camera.id, lambda: refuse(town, camera.id, credential, "revoked")
    )  # fmt: skip
    with town.open(), town.client("device", None if proxied else credential, headers=header) as client:
        assert outcome(client) in ("403", *(() if proxied else ("cut",)))
        assert changed, "the row was read before the revocation"
        assert client.get(SELF).json()["reason"] == "revoked"


def test_a_connection_subscribes_before_its_row_is_read(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes between the row and the admission has the row read again at the next request, not when it is forgotten."""
    camera, c = town.add_device("cam-1"), certificates.c
    credential = town.authority.device(camera)
    serial = f"{credential.certificate.serial_number:x}"
    monkeypatch.setattr(access, "_KEEP", 1000.0)

    def revoke() -> None:
        with town.rt.db.write() as connection:
            connection.execute(certificates.update().where(c.serial_number == serial).values(state="revoked"))
            trust.touch(connection, camera.id)

    changed = hold_the_row(town, monkeypatch, camera.id, revoke)
    with town.open(), town.client("device", credential) as client:
        client.get(SELF)
        assert changed
        assert client.get(SELF).json()["reason"] == "revoked"


def test_a_change_looks_only_at_the_connections_that_it_is_about(doors: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    looked, must_close = [], access.must_close

    def counted(view: View, bond: access.Bond) -> str | None:
        looked.append(bond.judged.device_id)
        return must_close(view, bond)

    one, other = doors.add_device("cam-1"), doors.add_device("cam-2")
    credentials = [doors.authority.device(each) for each in (one, other)]
    with doors.client("device", credentials[0]) as mine, doors.client("device", credentials[1]) as theirs:
        assert [client.get(SELF).status_code for client in (mine, theirs)] == [200, 200]
        monkeypatch.setattr(access, "must_close", counted)
        contain(doors, one.id, Answer.QUARANTINE)
        until(lambda: outcome(mine) in ("403", "cut"), timeout=5)
        refuse(doors, other.id, credentials[1], "revoked")
        until(lambda: outcome(theirs) in ("403", "cut"), timeout=5)
    assert looked
    assert looked == sorted(looked, key=[one.id, other.id].index), "first the one, then the other, never both"
    assert looked.count(other.id) == 1


def test_a_forged_client_cert_header_is_dropped_and_a_listed_proxys_is_read(town: Town) -> None:
    camera = town.add_device("cam-1")
    credential = town.authority.device(camera)
    header = {"Client-Cert": f":{base64.b64encode(credential.der).decode()}:"}
    with town.open():
        assert ask(town, headers=header).status_code == 401
    proxied = type(town.rt)(town.rt.settings.model_copy(update={"proxies": ("127.0.0.1",)}), town.rt.db, town.rt.wiring)
    town.rt = proxied
    with town.open():
        assert ask(town, headers=header).json()["name"] == "cam-1"
        twin = {"Client-Cert": f":{base64.b64encode(credential.twin.der).decode()}:"}
        assert ask(town, headers=twin).json()["reason"] == "unregistered"
        assert ask(town, headers={"Client-Cert": "no bytes"}).json()["reason"] == "malformed"
        assert ask(town, credential).status_code == 401  # a proxy speaks for others, not for itself


@pytest.mark.parametrize("reason", ["suspended", "revoked", "superseded"])
def test_a_refused_certificate_closes_its_connection_and_is_refused_again(doors: Town, reason: str) -> None:
    camera = doors.add_device("cam-1")
    credential = doors.authority.device(camera)
    with doors.client("device", credential) as client:
        assert client.get(SELF).status_code == 200
        refuse(doors, camera.id, credential, reason)
        until(lambda: outcome(client) in ("403", "cut"), timeout=5)
        until(lambda: ask(doors, credential).json().get("reason") == reason, timeout=5)
    with doors.rt.db.write() as connection:
        trust.accept_certificate(connection, keys=credential.keys, device_id=camera.id)
    until(lambda: ask(doors, credential).status_code == 200, timeout=5)


def wait_closed(sock: ssl.SSLSocket) -> float:
    """Seconds until the server ends the connection; the socket's timeout bounds it."""
    began = time.monotonic()
    try:
        while sock.recv(4096):
            pass
    except (ConnectionResetError, ssl.SSLError):
        pass
    return time.monotonic() - began


def test_quarantine_closes_open_connections_and_holds_against_resumption(doors: Town) -> None:
    """Must show 7, the door's part: keep-alive, a new connection, a resumed session; and release gives all back."""
    camera, neighbour = doors.add_device("cam-1"), doors.add_device("cam-2")
    credential, other = doors.authority.device(camera), doors.authority.device(neighbour)
    request = f"GET {SELF} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = doors.context(credential)
        context.minimum_version = context.maximum_version = version

        def connect(session=None, context=context):
            raw = socket.create_connection(("127.0.0.1", doors.ports["device"]), timeout=5)
            sock = context.wrap_socket(raw, server_hostname="localhost", session=session)
            sock.sendall(request)
            return sock, sock.recv(65536)

        live, answer = connect()
        assert answer.startswith(b"HTTP/1.1 200")
        session = live.session
        with doors.client("device", other) as beside:
            assert beside.get(SELF).status_code == 200
            before = beside._transport._pool.connections[0]
            contain(doors, camera.id, Answer.DENY)
            assert wait_closed(live) < 4  # seen by the client; the server's own figure is in door_closed
            live.close()
            resumed, answer = connect(session)
            assert (resumed.session_reused, answer[:12]) == (True, b"HTTP/1.1 403"), version
            resumed.close()
            assert ask(doors, credential).json()["reason"] == "deny"
            assert beside.get(SELF).status_code == 200
            assert beside._transport._pool.connections == [before]  # the neighbour kept its connection
        release(doors, camera.id)
        until(lambda: ask(doors, credential).status_code == 200, timeout=5)
        resumed, answer = connect(session)
        assert (resumed.session_reused, answer[:12]) == (True, b"HTTP/1.1 200"), version
        resumed.close()

    def acted() -> bool:
        with doors.rt.db.read() as connection:
            seen = trust.Horizon.parse(connection.execute(door_status.select()).one().position)
            return seen.covers(trust.last_number(connection, camera.id))

    until(acted, timeout=5)
    with doors.rt.db.read() as connection:
        assert connection.execute(door_closed.select()).one().connections >= 2
        names = [(stored.name, stored.device_id) for stored in outbox.read(connection)]
    assert ("SessionsClosed", camera.id) in names
    assert ("SessionsClosed", neighbour.id) not in names


def test_exceptions_hold_for_the_decision_that_they_are_made_for(doors: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = doors.add_device("cam-1")
    credential = doors.authority.device(camera)

    def reason() -> str:
        found = ask(doors, credential).json()
        return found.get("answer") or found["reason"]

    contain(doors, camera.id, Answer.QUARANTINE)
    until(lambda: reason() == "quarantine", timeout=5)
    told = ask(doors, credential).json()
    assert (told["status"], told["reasons"]) == (403, [{"source": "containment", "reason": "test", "ref": "c1"}])
    monkeypatch.setattr(routes, "REMEDIES", frozenset({f"GET {SELF}"}))
    assert ask(doors, credential).json()["answer"] == "quarantine"
    contain(doors, camera.id, Answer.DENY)
    until(lambda: reason() == "deny" and ask(doors, credential).status_code == 403, timeout=5)  # deny knows no remedy
    contain(doors, camera.id, Answer.LIMITED)
    until(lambda: reason() == "limited", timeout=5)
    assert ask(doors, credential).status_code == 200
    monkeypatch.setattr(routes, "WITHHELD_WHEN_LIMITED", frozenset({f"GET {SELF}"}))
    assert ask(doors, credential).json()["code"] == "device-limited"


def test_an_exception_that_names_no_route_keeps_the_door_shut(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "OPEN", routes.OPEN | {"GET /device/v1/typo"})
    with pytest.raises(RuntimeError, match="typo"), town.open():
        pass


def test_retiring_a_device_shuts_it_out_while_connected(doors: Town) -> None:
    camera = doors.add_device("cam-1")
    with doors.client("device", doors.authority.device(camera)) as client:
        assert client.get(SELF).status_code == 200
        with doors.rt.db.write() as connection:
            devices.retire(connection, camera.id, "replaced", actor=SETUP)
        until(lambda: outcome(client) == "403", timeout=5)


def test_last_seen_is_written_down_by_itself(doors: Town) -> None:
    camera = doors.add_device("cam-1")
    assert ask(doors, doors.authority.device(camera)).status_code == 200

    def seen() -> bool:
        with doors.rt.db.read() as connection:
            return devices.get(connection, camera.id).last_seen is not None

    until(seen, timeout=10)


def test_without_fresh_trust_nobody_gets_in(doors: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = doors.add_device("cam-1")
    credential = doors.authority.device(camera)
    assert ask(doors, credential).status_code == 200
    monkeypatch.setattr("api.device.trustwatch.STALE", 0.3)
    blocked = threading.Event()

    def broken(view, connection, applied):
        blocked.set()
        raise OSError("the database does not answer")

    monkeypatch.setattr(View, "look", broken)
    assert blocked.wait(5)
    until(lambda: ask(doors, credential).status_code == 503, timeout=5)
    assert ask(doors, credential).json()["reason"] == "trust-unknown"
    monkeypatch.undo()
    until(lambda: ask(doors, credential).status_code == 200, timeout=5)
