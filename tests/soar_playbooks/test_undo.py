"""When a containment ends, what its run did at peers is undone, newest first, once; what fails pages a human."""

from datetime import timedelta
from typing import Any

import pytest

from lachan import clock, trust
from lachan.runtime import Runtime
from lachan.work.jobs import jobs
from soar_playbooks.cacao.model import EXTENSION
from soar_playbooks.containment import approvals
from soar_playbooks.models import containments
from tests.soar_playbooks.peer import Peer
from tests.soar_playbooks.support import (
    AN,
    BINH,
    camera_document,
    decision,
    http_action,
    load,
    new_device,
    one_containment,
    raise_alert,
    rows,
    told,
    with_target,
    work,
)

FIRST = "action--11111111-1111-4111-8111-111111111111"
SECOND = "action--22222222-2222-4222-8222-222222222222"


@pytest.fixture
def contained(rt: Runtime, peer: Peer) -> Any:
    """A device that a run has contained after it asked the peer for two things."""
    object.__setattr__(rt, "settings", rt.settings.model_copy(update={"outgoing_allow": (f"127.0.0.1:{peer.port}",)}))
    document = with_target(camera_document(), peer.base)
    flow = document["workflow"]
    contain = next(name for name, step in flow.items() if step.get("out_args"))
    condition = next(step for step in flow.values() if step["type"] == "if-condition")
    condition["on_true"] = FIRST
    body = {"device": "__device__:value"}
    for name, path, nxt in ((FIRST, "/one", SECOND), (SECOND, "/two", contain)):
        flow[name] = http_action(path, idempotent=name == FIRST, nxt=nxt, content=body)
        back = {"type": "http-api", "command": f"DELETE {path} HTTP/1.1"}
        flow[name]["step_extensions"][EXTENSION]["undo"] = {"command": back}
    load(rt, document)
    device = new_device(rt)
    raise_alert(rt, device)
    work(rt)
    assert decision(rt, device) is trust.Answer.QUARANTINE
    return device


def release(rt: Runtime) -> None:
    for person in (AN, BINH):
        with rt.db.write() as connection:
            approvals.release(rt, connection, person, containment_id=one_containment(rt)["id"])


def test_the_end_of_a_containment_undoes_the_run_newest_first(rt: Runtime, peer: Peer, contained: Any) -> None:
    asked = len(peer.requests)
    release(rt)
    work(rt)
    back = peer.requests[asked:]
    assert [path for path, _, _ in back] == ["/two", "/one"]
    assert len({headers["idempotency-key"] for _, headers, _ in back}) == 2
    assert told(rt, "HumanPaged") == []
    work(rt)
    assert len(peer.requests) == asked + 2


def test_a_peer_that_does_not_undo_pages_a_human_and_the_release_stands(
    rt: Runtime, peer: Peer, contained: Any
) -> None:
    peer.answers["/two"] = [500]
    peer.answers["/one"] = [503]
    release(rt)
    work(rt)
    with clock.travel(timedelta(minutes=1)):
        work(rt)
    assert decision(rt, contained) is trust.Answer.ALLOW
    (page,) = told(rt, "HumanPaged")
    assert "not undone" in page.reason
    assert [path for path, _, _ in peer.requests][2:] == ["/two", "/one", "/one"]  # the counting one is asked once
    assert rows(rt, containments)[0]["state"] == "ended"


def test_where_there_is_nothing_to_undo_no_job_is_made(rt: Runtime) -> None:
    """The repository's playbook contains and pages: both are over with the containment."""
    load(rt)
    device = new_device(rt)
    raise_alert(rt, device)
    work(rt)
    for person in (AN, BINH):
        with rt.db.write() as connection:
            approvals.release(rt, connection, person, containment_id=one_containment(rt)["id"])
    assert [job["kind"] for job in rows(rt, jobs) if job["kind"] == "soar.undo"] == []
    assert decision(rt, device) is trust.Answer.ALLOW
