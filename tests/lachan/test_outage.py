"""An outage is said once when it begins and once when it is over."""

from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from lachan.database import Database
from lachan.errors import DatabaseAway, Unavailable
from lachan.outage import Outage
from lachan.runtime import Runtime
from lachan.signer.client import result
from lachan.signer.dispatch import Dispatcher
from lachan.signer.errors import SignerUnavailable
from lachan.signer.keystore import open_keys
from lachan.work import worker
from lachan.work.jobs import TRIES, Job, jobs
from lachan.work.worker import Worker


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "lachan.outage"]


def test_once_when_it_begins_and_once_when_it_is_over(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("lachan.outage.time.monotonic", lambda: now[0])
    away = Outage("it is away", quiet=5)
    away.worked()
    assert said(caplog) == []
    for _ in range(3):
        away.failed("no answer")
        now[0] += 2
        away.worked()  # too soon: what fails now and then is one outage
    assert said(caplog) == ["it is away"]
    now[0] += 5
    away.worked()
    away.worked()
    assert said(caplog) == ["it is away", "an outage is over"]
    assert caplog.records[-1].fields["seconds"] == 11  # type: ignore[attr-defined]
    away.failed("again")
    assert said(caplog)[2:] == ["it is away"]


def test_what_reads_learns_that_it_is_the_database_and_its_pool_is_made_anew(
    db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    before = db.engine.pool
    lost = sa.exc.OperationalError("SELECT", {}, Exception("gone"), connection_invalidated=True)
    for _ in range(2):
        with pytest.raises(DatabaseAway) as told, db.read():
            raise lost
        assert told.value.fields["retry_after"] > 0
    assert said(caplog) == ["the database cannot be read"]
    assert db.engine.pool is not before
    with pytest.raises(sa.exc.IntegrityError), db.read():
        raise sa.exc.IntegrityError("INSERT", {}, Exception("twice"))


@pytest.mark.parametrize(
    ("error", "state"), [(Unavailable("the signer"), "open"), (ValueError("a mistake"), "poisoned")]
)
def test_only_what_is_wrong_itself_is_given_up(error: Exception, state: str) -> None:
    job = Job("id", "soar.run", {}, TRIES, 1)
    after = worker.failed(job, str(error), kept=isinstance(error, Unavailable))
    assert ("poisoned" if after.given_up else "open") == state


def test_a_job_that_met_an_outage_has_not_failed(rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> None:
        raise DatabaseAway("away")

    with rt.db.write() as connection:
        row = {"id": "one", "kind": "soar.run", "key": "one", "payload": {}, "due_at": datetime(2020, 1, 1, tzinfo=UTC)}
        connection.execute(jobs.insert(), [row])
    monkeypatch.setattr(worker, "run", away)
    assert Worker(rt).run_due() == 1
    with rt.db.read() as connection:
        found = connection.execute(sa.select(jobs)).one()
    assert (found.state, found.failures, found.lease_until) == ("open", 0, None)


def handler(_context: Any, _fields: Any) -> dict[str, Any]:
    raise DatabaseAway("the database is away", retry_after=2)


def test_the_signer_without_its_database_refuses_nothing(rt: Runtime) -> None:
    keys = open_keys(rt.settings.signer_home, create=True)
    dispatcher = Dispatcher(rt.settings, rt.db, keys, {"crl": f"{__name__}:handler"}, lambda: None)
    answer = dispatcher.answer({"kind": "crl", "fields": {}}, pid=1, uid=1)
    assert "refused" not in answer
    assert dispatcher.log.path.read_bytes() == b""
    dispatcher.close()
    with pytest.raises(SignerUnavailable) as told:
        result("crl", answer)
    assert (told.value.status, told.value.fields["retry_after"]) == (503, 2)
