"""Export from a real database, verified offline by the command alone; what is done to the rows by hand is named."""

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from lachan import clock, devices, events
from lachan.identity.principal import system
from lachan.ledger import cli, sealer
from lachan.ledger import export as export_module
from lachan.ledger.errors import ExportRefused, NotSealed
from lachan.ledger.export import Period, export
from lachan.ledger.note import Verifier
from lachan.ledger.verify import verify
from lachan.runtime import Runtime
from lachan.work import outbox
from lachan.work.outbox import events as event_table


def key(rt: Runtime) -> Verifier:
    return Verifier.parse((rt.settings.data / "ledger" / "key").read_text())


def new(i: int) -> devices.NewDevice:
    return devices.NewDevice(name=f"cam-{i}", vendor=f"vendor-{i}", model="m", serial_number=f"s{i}", site="north")


@pytest.fixture
def story(ledger_rt: Runtime) -> Runtime:
    """Two devices of two vendors, ten facts each, sealed."""
    with ledger_rt.db.write() as connection:
        ids = [devices.register(connection, new(i), actor=system("test")).id for i in range(2)]
        for i in range(20):
            fact = events.CertificateSuspended(device_id=ids[i % 2], serial_number=f"{i:x}", reason="test \x1b[31m đỏ")
            outbox.append(connection, fact, actor=system("test"))
    sealer.seal_now(ledger_rt)
    (ledger_rt.settings.data / "initialised").touch()
    return ledger_rt


def test_all_of_it_and_parts_of_it(story: Runtime):
    whole = verify(export(story), key(story))
    assert whole.events == whole.size >= 22
    with story.db.read() as connection:
        device = devices.by_name(connection, "cam-1")
    part = verify(export(story, device_id=device.id), key(story))
    assert (part.events, part.size, part.root) == (11, whole.size, whole.root)
    assert verify(export(story, vendor="vendor-0"), key(story)).events == 11
    now = clock.now()
    hour = timedelta(hours=1)
    assert verify(export(story, period=Period(now - hour, now + hour)), key(story)).events == whole.size
    assert verify(export(story, period=Period(now + hour, None)), key(story)).events == 0


def test_from_an_earlier_checkpoint(story: Runtime):
    with story.db.read() as connection:
        point, note = sealer.latest(connection)
        device = devices.by_name(connection, "cam-1")
    with story.db.write() as connection:
        for i in range(300):
            outbox.append(connection, events.SignedIn(user=f"u{i}"), actor=system("test"))
    sealer.seal_now(story)
    found = verify(export(story, device_id=device.id, since=note), key(story), since=note)
    assert (found.since, found.size) == (point.size, point.size + 300)
    assert verify(export(story), key(story), since=note).since == point.size


@pytest.mark.parametrize("change", ["body", "erase", "delete", "swap", "not-text"])
def test_what_is_done_to_the_rows_by_hand_is_named(story: Runtime, change: str):
    with story.db.write() as connection:
        rows = connection.execute(sa.select(event_table).where(event_table.c.name == "CertificateSuspended")).all()
        victim, other = rows[4], rows[9]
        where = event_table.c.seq == victim.seq
        match change:
            case "body":
                connection.execute(event_table.update().where(where).values(body=victim.body.replace(b"test", b"TEST")))
            case "not-text":
                connection.execute(event_table.update().where(where).values(body=b"\xff" + victim.body))
            case "erase":
                connection.execute(event_table.update().where(where).values(body=None))
            case "delete":
                connection.execute(event_table.delete().where(where))
            case "swap":
                connection.execute(event_table.update().where(where).values(body=other.body))
    if change == "erase":  # allowed, and told
        assert verify(export(story), key(story)).erased == 1
        return
    with pytest.raises(ExportRefused) as caught:
        verify(export(story), key(story))
    found = caught.value.fields["findings"]
    if change == "delete":
        assert [f["fault"] for f in found] == ["removed"]
        assert found[0]["index"] == victim.seq - 1
    else:
        assert [(f["fault"], f["id"], f["name"]) for f in found] == [("changed", victim.id, "CertificateSuspended")]


def test_nothing_sealed(rt: Runtime):
    with pytest.raises(NotSealed):  # before the first line, so that a door can still answer with it
        export(rt)


def test_pages_fit_together(ledger_rt: Runtime, monkeypatch: pytest.MonkeyPatch):
    """Whatever the size of a page: the same lines but for the sections of the contents, whole and in parts."""
    rt = ledger_rt
    with rt.db.write() as connection:
        ids = [devices.register(connection, new(i), actor=system("test")).id for i in range(3)]
        for i in range(290):
            fact = events.CertificateSuspended(device_id=ids[i % 7 % 3], serial_number=f"{i:x}", reason="test")
            outbox.append(connection, fact, actor=system("test"))
    size = sealer.seal_now(rt)

    def bare(**scope) -> list[bytes]:
        lines = list(export(rt, **scope))
        assert verify(lines, key(rt)).size == size
        return [line for line in lines[1:-1] if not line.startswith(b'{"type":"contents"')]

    scopes = [
        {},
        {"device_id": ids[2]},
        {"vendor": "vendor-1"},
        {"vendor": "none"},
        {"period": Period(clock.now(), None)},
    ]
    for scope in scopes:
        wanted = bare(**scope)
        for walk, few in ((1, 0), (7, 0), (256, 0), (300, 0), (1 << 20, 0), (64, 2000)):
            monkeypatch.setattr(export_module, "WALK", walk)
            monkeypatch.setattr(export_module, "FEW", few)
            assert bare(**scope) == wanted
        monkeypatch.undo()


def test_few_events_are_found_by_an_index_and_many_by_walking(story: Runtime, monkeypatch: pytest.MonkeyPatch):
    pages = []
    page = export_module._Walk._page

    def counted(self, connection, first, upto, *, by_index):
        pages.append((upto - first, by_index))
        return page(self, connection, first, upto, by_index=by_index)

    monkeypatch.setattr(export_module._Walk, "_page", counted)
    monkeypatch.setattr(export_module, "WALK", 10)
    first, *_ = export(story, vendor="vendor-0")
    size = json.loads(first)["size"]
    assert pages == [(size, True)]
    pages.clear()
    monkeypatch.setattr(export_module, "FEW", 3)
    list(export(story, vendor="vendor-0"))
    list(export(story))
    assert max(pages) == (10, False)


def test_no_connection_is_held_while_a_slow_reader_reads(story: Runtime, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(export_module, "WALK", 4)
    pool = story.db.engine.pool
    lines = []
    for line in export(story):
        lines.append(line)
        assert pool.checkedout() == 0
    assert verify(lines, key(story)).events > 20


def test_an_export_is_of_its_checkpoint_though_the_ledger_grows_meanwhile(
    story: Runtime, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(export_module, "WALK", 4)
    lines = export(story)
    found = [next(lines) for _ in range(6)]
    with story.db.write() as connection:
        for i in range(300):
            outbox.append(connection, events.SignedIn(user=f"u{i}"), actor=system("test"))
    sealer.seal_now(story)
    assert verify([*found, *lines], key(story)).size == json.loads(found[0])["size"]


def lachan(*words: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; from lachan.ledger.cli import main; from lachan.cliutil import guarded\n"
        "status = guarded(lambda: main(sys.argv[1:]))\n"
        "server = {'sqlalchemy', 'fastapi', 'pydantic', 'lachan.database', 'lachan.settings'} & set(sys.modules)\n"
        "assert not server, server\n"
        "sys.exit(status)"
    )
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)


def test_the_command_verifies_with_the_export_and_a_key_alone(story: Runtime, tmp_path: Path, capsys):
    data = str(story.settings.data)
    file, keys, old = tmp_path / "e.ndjson", tmp_path / "key", tmp_path / "old"
    assert cli.main(["export", "--data", data, "-o", str(file)]) == 0
    capsys.readouterr()
    assert cli.main(["key", "--data", data]) == 0
    keys.write_text(capsys.readouterr().out)
    good = lachan("verify", str(file), "--key", str(keys))
    assert (good.returncode, good.stderr) == (0, "")
    assert "OK: " in good.stdout
    assert "--since" in good.stdout

    lines = file.read_bytes().splitlines(keepends=True)
    value = json.loads(lines[10])  # header, contents, then the events
    event = json.loads(value["body"])
    value["body"] = value["body"].replace("test", "TEST")
    lines[10] = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    contents = json.loads(lines[1])
    contents["events"][8][2] += "\x1b]0;owned\x07\n\u202e"
    lines[1] = json.dumps(contents, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    bad = tmp_path / "bad.ndjson"
    bad.write_bytes(b"".join(lines))
    answer = lachan("verify", str(bad), "--key", str(keys))
    assert answer.returncode == 1
    assert f"changed: event #8 {event['name']}\\x1b]0;owned\\x07\\n\\x202e {event['id']}" in answer.stdout
    assert "\x1b" not in answer.stdout

    as_json = lachan("verify", str(bad), "--key", str(keys), "--json")
    found = json.loads(as_json.stdout)
    assert (as_json.returncode, found["ok"]) == (1, False)
    assert found["findings"][0]["index"] == 8
    assert json.loads(lachan("verify", str(file), "--key", str(keys), "--json").stdout)["ok"] is True

    old.write_text((story.settings.data / "ledger" / "checkpoint").read_text())
    since = lachan("verify", str(file), "--key", str(keys), "--since", str(old))
    assert since.returncode == 0
    assert "only grew" in since.stdout
    with story.db.write() as connection:
        outbox.append(connection, events.SignedIn(user="an"), actor=system("test"))
    sealer.seal_now(story)
    old.write_text((story.settings.data / "ledger" / "checkpoint").read_text())
    cut = lachan(
        "verify", str(file), "--key", str(keys), "--since", str(old)
    )  # the export of before: its tail is missing
    assert cut.returncode == 1
    assert "truncated: " in cut.stdout
    assert lachan("verify", str(file), "--key", str(file)).returncode == 1
    assert lachan("verify", str(tmp_path / "none"), "--key", str(keys)).returncode == 1
    assert lachan("verify", str(file)).returncode == 2


def test_status_checkpoint_and_refusals_of_the_command(story: Runtime, capsys, tmp_path: Path):
    data = str(story.settings.data)
    assert cli.main(["status", "--data", data, "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["sealed"] == status["leaves"]
    assert (status["waiting"], status["stopped"]) == (False, None)
    with story.db.write() as connection:
        outbox.append(connection, events.SignedIn(user="an"), actor=system("test"))
    import os

    os.symlink(story.settings.signer_path, story.settings.signer_home / "signer.sock")
    assert cli.main(["checkpoint", "--data", data]) == 0
    assert capsys.readouterr().out.split("\n")[1] == str(status["sealed"] + 1)
    assert cli.main(["checkpoint", "--data", data, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["size"] == status["sealed"] + 1
    assert cli.main(["export", "--data", data, "--device", "cam-0"]) == 0
    assert capsys.readouterr().out.startswith('{"type":"header"')
