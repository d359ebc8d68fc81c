"""The ledger's export over HTTP: a stream that nobody has to hold, and refusals before its first byte."""

import hashlib

import pytest

from lachan import clock, events
from lachan.identity import Role
from lachan.ledger import tree
from lachan.ledger.models import checkpoints
from lachan.ledger.note import Checkpoint, sign
from lachan.ledger.verify import verify
from lachan.work import outbox
from tests.api.support import SETUP, Town
from tests.ledger.forge import KEY, PRIVATE


@pytest.fixture
def auditor(doors: Town):
    headers = {"Authorization": f"Bearer {doors.token(Role.AUDITOR)}"}
    with doors.client("people") as client:
        client.headers.update(headers)
        yield client


def seal(town: Town) -> str:
    """Seal all events and sign the checkpoint by hand; give its note."""
    with town.rt.db.write() as connection:
        tree.append(connection, limit=10_000)
        edge = tree.frontier(connection)
        note = sign(Checkpoint(KEY.name, edge.size, edge.root()).text, KEY, PRIVATE.sign)
        row = {"size": edge.size, "root": edge.root(), "note": note, "created_at": clock.now()}
        connection.execute(checkpoints.insert().values(row))
    return note


def test_an_export_is_a_stream_that_verifies(doors: Town, auditor):
    camera = doors.add_device("cam-1")
    earlier = seal(doors)
    with doors.rt.db.write() as connection:
        for i in range(700):
            fact = events.CertificateSuspended(device_id=camera.id, serial_number=f"{i:x}", reason="thử")
            outbox.append(connection, fact, actor=SETUP)
    seal(doors)
    with auditor.stream("GET", "/api/v1/ledger/export", params={"since": earlier}) as answer:
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
        assert "content-length" not in answer.headers  # nobody had to make all of it first
        assert 'filename="ledger.ndjson"' in answer.headers["content-disposition"]
        pieces = list(answer.iter_raw())
    found = verify(b"".join(pieces).splitlines(keepends=True), KEY, since=earlier)
    assert found.events == found.size > 700
    assert len(pieces) > 2
    assert not (doors.rt.settings.data / "tmp").exists()
    part = auditor.get("/api/v1/ledger/export", params={"device_id": camera.id})
    assert verify(part.content.splitlines(keepends=True), KEY).events == 701
    assert hashlib.sha256(part.content.rpartition(b'{"type":"end"')[0]).hexdigest() in part.text


def test_what_cannot_be_exported_is_said_before_the_first_byte(doors: Town, auditor):
    assert auditor.get("/api/v1/ledger/export").status_code == 404
    note = seal(doors)
    assert auditor.get("/api/v1/ledger/export", params={"since": "no note"}).status_code == 422
    size = int(note.split("\n")[1])
    later = note.replace(f"\n{size}\n", f"\n{size + 1}\n")
    assert auditor.get("/api/v1/ledger/export", params={"since": later}).status_code == 422
