"""HEAD, conditions and forms of paths at the doors whose routes stand in the framework (RFC 9110 9.3.2, 13.1.1, 13.1.2)."""

import socket

import pytest

from api import machine
from api.device import firmware, routes
from api.device.app import build
from api.people import routes as people_routes
from lachan.identity import Role
from lachan.runtime import Runtime
from tests.api.support import Town


def test_head_is_get_without_a_body_at_every_door(doors: Town) -> None:
    """A load balancer that asks by HEAD must not take a door for dead."""
    for door, paths in (
        ("people", ("/readyz", "/livez", "/sign-in", "/api/v1/session")),
        ("device", ("/.well-known/est/cacerts", "/.well-known/est/csrattrs")), ("status", ("/ca/chain.pem", "/ca/issuing.crt")),
    ):  # fmt: skip
        with doors.client(door) as client:
            for path in paths:
                got, head = client.get(path), client.head(path)
                assert (head.status_code, head.content) == (got.status_code, b""), path
                assert head.headers["Content-Type"] == got.headers["Content-Type"]
                if "Content-Length" in got.headers:
                    assert head.headers["Content-Length"] == got.headers["Content-Length"], path


def test_entity_tags_in_lists_and_weakened_by_a_proxy(doors: Town) -> None:
    camera = doors.add_device("cam-1")
    headers = {"Authorization": f"Bearer {doors.token(Role.ADMIN)}"}
    with doors.client("people", headers=headers) as client:
        path = f"/api/v1/devices/{camera.id}"
        tag = client.get(path).headers["ETag"]
        for known in (tag, f"W/{tag}", f'"other", W/{tag}'):
            assert client.get(path, headers={"If-None-Match": known}).status_code == 304, known
        change = {"criticality": "normal"}
        for meant, status in ((f"W/{tag}", 412), ('"other"', 412), (f'"other", {tag}', 200)):  # compared strongly
            assert client.patch(path, json=change, headers={"If-Match": meant}).status_code == status, meant


def test_paths_that_can_be_read_in_two_ways_are_none(doors: Town) -> None:
    """A proxy before us may have let them through for what they are not."""
    for path in (
        "/api%2fv1/users",
        "/static/../api/v1/users",
        "/static/..%2f..%2fpages.py",
        "//livez",
        "/livez/.",
        "/%2e/livez",
    ):
        with (
            socket.create_connection(("localhost", doors.ports["people"]), timeout=10) as raw,
            doors.context().wrap_socket(raw, server_hostname="localhost") as sock,
        ):
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            got = b"".join(iter(lambda: sock.recv(65536), b""))
        assert got.startswith(b"HTTP/1.1 404"), path


def test_a_planted_row_keeps_the_door_shut(rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ``auth=`` it cannot be written; with the wrong one, or without what it needs, the door does not start."""
    build(rt)
    with pytest.raises(TypeError, match="auth"):
        machine.MachineRoute(method="GET", path="/x", handler=firmware.poll_firmware, name="x", summary="x")  # type: ignore[call-arg]
    planted = machine.MachineRoute(
        method="GET",
        path="/firmware/all",
        auth=machine.Auth.OPEN,
        handler=firmware.poll_firmware,
        name="x",
        summary="x",
    )
    monkeypatch.setattr(firmware, "MACHINE", (*firmware.MACHINE, planted))
    with pytest.raises(RuntimeError, match="GET /firmware/all is open here"):
        build(rt)
    monkeypatch.setattr(routes, "OPEN", routes.OPEN | {planted.operation})
    with pytest.raises(RuntimeError, match="no route has"):  # it stands in no router: nobody could see it in a table
        build(rt)
    assert people_routes.OPEN
