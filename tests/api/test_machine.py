"""Machine routes at the device door: the same envelope as every other route, and no framework between."""

from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from api import machine
from api.device import est, routes
from api.device.app import build
from lachan import metrics
from lachan.runtime import Runtime
from tests.api.support import Town

EST = "/.well-known/est"


@pytest.fixture
def client(town: Town) -> Iterator[httpx.Client]:
    with town.open(), town.client("device", None) as client:
        yield client


def counted(path: str, status: str) -> float:
    return metrics.requests.labels("device", path, status)._value.get()


def test_the_envelope_is_around_machine_routes_too(client: httpx.Client) -> None:
    label = f"{EST}/{{label}}/csrattrs"
    before = counted(label, "200")
    got = client.get(f"{EST}/camera/csrattrs", headers={"X-Request-Id": "my-request-1"})
    assert got.status_code == 200
    assert got.headers["X-Request-Id"] == "my-request-1"
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    head = client.head(f"{EST}/camera/csrattrs")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == got.headers["Content-Length"]
    assert counted(label, "200") == before + 2  # the label is the route's, so nobody makes new series


def test_what_machine_routes_do_not_offer_is_a_problem_document(client: httpx.Client) -> None:
    for method, path, status in (
        ("POST", f"{EST}/csrattrs", 405), ("GET", f"{EST}/simpleenroll", 405), ("GET", f"{EST}/a/b/csrattrs", 404),
        ("GET", f"{EST}/nothing", 404),
    ):  # fmt: skip
        answer = client.request(method, path)
        assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json"), path


def test_bodies_are_limited(client: httpx.Client) -> None:
    headers = {"Content-Type": "application/pkcs10"}
    answer = client.post(f"{EST}/simpleenroll", content=b"M" * (1 << 20), headers=headers, auth=("a", "b"))
    assert answer.status_code == 413
    answer = client.post(f"{EST}/simpleenroll", content=iter([b"M" * (1 << 15)] * 3), headers=headers, auth=("a", "b"))
    assert answer.status_code == 413


def test_who_may_reach_a_route_stands_in_both_tables(rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    build(rt)
    wrong = replace(est.MACHINE[-1], auth=machine.Auth.OPEN)
    assert wrong.operation not in routes.OPEN
    monkeypatch.setattr(est, "MACHINE", (*est.MACHINE[:-1], wrong))
    with pytest.raises(RuntimeError, match="simplereenroll"):
        build(rt)


def test_a_route_without_auth_cannot_be_written() -> None:
    with pytest.raises(TypeError, match="auth"):
        machine.MachineRoute(  # type: ignore[call-arg]
            method="GET", path="/x", handler=est.csrattrs, refusal=est.refusal, name="x", summary="x"
        )
