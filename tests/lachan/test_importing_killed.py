"""kill -9 of an import between any two of its steps: whoever goes on leaves nothing doubled and nothing lost."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from lachan import clock
from lachan.database import metadata
from lachan.devices import devices, importing
from lachan.devices.importing import applying
from lachan.devices.importing.models import store
from lachan.identity import system
from lachan.runtime import Runtime
from lachan.work import jobs, outbox
from lachan.work.worker import Worker
from tests.lachan.import_child import CHUNK
from tests.lachan.test_importing import table

ROWS = 10


def child(rt: Runtime, file: Path, way: str, step: int) -> subprocess.CompletedProcess[str]:
    """Run the import in a process that dies at a step."""
    url = "" if rt.db.dialect == "sqlite" else rt.db.url.render_as_string(hide_password=False)
    words = [sys.executable, "-m", "tests.lachan.import_child", str(rt.settings.data), url, str(file), way, str(step)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def clear(rt: Runtime) -> None:
    """Forget everything."""
    with rt.db.write() as connection:
        for one in reversed(metadata.sorted_tables):
            connection.execute(one.delete())
    for name in list(store(rt.settings).names()):
        store(rt.settings).delete(name)


def go_on(rt: Runtime, file: Path, way: str) -> None:
    """Do what the next process does: the command is called again, or a worker takes over (and the client sends again)."""
    with file.open("rb") as handle:
        found, _ = importing.begin(rt, handle, actor=system("child"), due=way == "work", key="")
    if way == "work":
        with rt.db.write() as connection:  # the dead one's lease has run out
            connection.execute(jobs.jobs.update().values(lease_until=clock.now() - timedelta(seconds=1)))
        Worker(rt).run_due()
    else:
        while found.state is importing.ImportState.APPLYING:
            found = importing.apply(rt, found.id)


def check(rt: Runtime, step: int) -> str:
    """See that every row, fact and chunk is there once; gives the root of the import that took them."""
    with rt.db.read() as connection:
        assert len(connection.scalars(sa.select(devices.c.name)).all()) == ROWS, step
        facts = [stored.event for stored in outbox.read(connection, names=("DevicesImported",))]
        ends = importing.find(connection, principal=system("t"))
        left = connection.scalars(sa.select(jobs.jobs.c.kind)).all()
    assert [one.state for one in ends] == [importing.ImportState.DONE] * len(ends), step
    took = [one for one in ends if one.accepted]  # where the end was reached, sending again made one that takes nothing
    assert [(one.accepted, one.rejected) for one in took] == [(ROWS, 0)], step
    mine = [fact for fact in facts if fact.import_id == took[0].id]
    assert [(fact.chunk, fact.accepted) for fact in mine] == [(0, 4), (1, 4), (2, 2), (None, ROWS)], step
    assert left == [], step
    return str(mine[-1].merkle_root)


@pytest.mark.fault
@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", ["command", "work"])
def test_an_import_killed_anywhere_is_whole_in_the_end(
    rt: Runtime, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applying, "CHUNK", CHUNK)
    file = tmp_path / "devices.csv"
    file.write_text(table(ROWS))
    whole = child(rt, file, way, 0)
    count = int(whole.stdout)
    assert count > 15, whole.stderr
    root = check(rt, 0)
    for step in range(1, count + 1):
        clear(rt)
        assert child(rt, file, way, step).returncode == -9, step
        go_on(rt, file, way)
        assert check(rt, step) == root
        later = clock.now() + timedelta(days=2)
        with monkeypatch.context() as moved:
            moved.setattr(clock, "now", lambda moment=later: moment)
            applying.sweep(rt)
        assert not [name for name in store(rt.settings).names() if name.endswith(".rows")], step
    print(f"{way}: killed at each of {count} steps")
