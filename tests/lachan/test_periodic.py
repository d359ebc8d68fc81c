"""What runs again and again costs what changed, not what exists: no statement of it reads a big table whole.

Every table has `MANY` rows; each recurring job of the wiring, and each loop that a role goes through at rest, runs once
while the driver is listened to; the database is then asked how it answers each statement. Nothing here lists statements.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from api.device.reporter import Reporter
from api.device.trustwatch import TrustWatch
from lachan import clock, trust, trust_view, wiring
from lachan.database import Database, metadata
from lachan.ledger import sealer
from lachan.runtime import Runtime
from lachan.settings import Settings
from lachan.signer import reconcile
from lachan.wiring import resolve
from lachan.work import health
from lachan.work.jobs import jobs
from lachan.work.worker import Worker, plan
from siem_rules import ruleset
from siem_rules.binding import Registry
from siem_rules.detector import Detector
from tests.support import statements
from tests.support.signer import runtime_with_signer

MANY = 3000
FIRST = 10_000
FEW = {
    "door_anchors": "the manufacturers' authorities",
    "door_orders": "devices that are contained now: a look reads a page",
    "door_status": "the doors",
    "imports": "files of the last 90 days",
    "ledger_lease": "one row",
    "ledger_nodes": "one in 256 of the leaves, read by key",
    "ledger_state": "one row",
    "ota_slots": "256 rows",
    "pki_authorities": "authorities and services",
    "pki_crls": "two an authority",
    "pki_holds": "certificates that are held now: a look reads a page",
    "pki_revisions": "authorities",
    "playbooks": "what is loaded",
    "playbook_signers": "who signs them",
    "playbook_versions": "what was loaded",
    "siem_checkpoints": "streams",
    "signer_reconciled": "one row",
    "siem_forgotten": "three rows",
    "soar_kill_switch": "one row",
    "webhook_receivers": "a row for each URL that was ever configured",
    "trust_pruned": "one row",
}
WHOLE = {"ota.tuf.audit": "reads every release again on purpose, once an hour"}
LATER = clock.now() + timedelta(days=300)
SETTLED: dict[str, dict[str, Any]] = {
    "alerts": {"state": "closed"},
    "containments": {"state": "ended"},
    "devices": {"state": "enrolled"},
    "enforcements": {"state": "settled", "point": "doors", "wanted": None},
    "events": {"txid": 0},
    "jobs": {"state": "open", "lane": "urgent", "due_at": LATER, "turn_at": None, "lease_until": None},
    "ota_releases": {"state": "halted", "slot": 7},
    "pki_certificates": {"state": "valid", "authority": "issuing", "not_after": LATER, "revision": 0},
    "posture_verdicts": {"result": "pass", "valid_until": LATER},
    "runs": {"state": "done"},
}


def big() -> list[sa.Table]:
    """All tables that grow with the city or with time."""
    return [table for table in metadata.sorted_tables if table.name not in FEW]


def rows_of(table: sa.Table) -> list[dict[str, Any]]:
    """Rows that are settled: nothing is due for any of them."""
    fixed = SETTLED.get(table.name, {})
    return [{column.name: fixed[column.name] if column.name in fixed else value(column, number)
             for column in table.columns} for number in range(FIRST, FIRST + MANY)]  # fmt: skip


def value(column: sa.Column[Any], number: int) -> Any:
    """A value of the column's type; of another number another one."""
    kind = column.type
    if isinstance(kind, sa.String):
        return f"{number:08}"[-(kind.length or 8) :]
    if isinstance(kind, sa.Boolean):
        return False
    if isinstance(kind, sa.Integer):
        return number if column.table.name != "ledger_checkpoints" else -number  # none is the newest
    if isinstance(kind, sa.Float):
        return float(number)
    if isinstance(kind, sa.LargeBinary):
        return number.to_bytes(32, "big")
    if isinstance(kind, sa.JSON):
        return {}
    if isinstance(kind, sa.Date):
        return clock.now().date()
    return clock.now()


def fill(db: Database) -> None:
    """Fill every big table, past the foreign keys, and put off all work."""
    engine = sa.create_engine(db.url, poolclass=sa.NullPool)  # without our hooks: SQLite does not look at foreign keys
    with engine.begin() as connection:
        if db.dialect == "postgresql":
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        for table in big():
            connection.execute(table.insert(), rows_of(table))
        if db.dialect == "sqlite":  # all of it is sealed
            connection.execute(metadata.tables["ledger_state"].update().values(position=FIRST + MANY))
        else:
            connection.exec_driver_sql("ANALYZE")  # as autovacuum does; on SQLite nobody does
        connection.execute(jobs.update().values(due_at=LATER))


class City:
    """An installation in which much exists and nothing is due."""

    def __init__(self, rt: Runtime, heard: statements.Recorder) -> None:
        self.rt, self.heard = rt, heard

    def scans(self, what: Callable[[], Any]) -> list[tuple[str, str]]:
        """Run something once and name the big tables that its statements read whole; it must have asked something."""
        found = self.heard.during(what)
        assert found, "no statement was heard"
        names = {table.name for table in big()}
        return [(table, text) for table, text in statements.scans(self.rt.db, found) if table in names]


@pytest.fixture
def city(settings: Settings, tmp_path: Path, short_folder: Path) -> Iterator[City]:
    """It, with a signer."""
    with statements.recorder() as heard:
        rt = Runtime.open(settings)
        try:
            metadata.create_all(rt.db.engine)
            with runtime_with_signer(rt, short_folder, tmp_path / "offline") as moved:
                for name in ("ota.tuf.refresh", "pki.refresh"):  # what is due after a beginning
                    resolve(moved.wiring.recurring[name].function)(moved)
                plan(moved)
                sealer.seal_now(moved)
                fill(moved.db)
                yield City(moved, heard)
        finally:
            rt.close()


def test_no_recurring_job_reads_a_big_table_whole(city: City, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "GRACE", timedelta(0))
    found, silent = {}, set()
    for name, every in city.rt.wiring.recurring.items():
        heard = city.heard.during(lambda function=every.function: resolve(function)(city.rt))  # type: ignore[misc]
        if not heard:
            silent.add(name)
        names = {table.name for table in big()} if name not in WHOLE else set()
        if wrong := [pair for pair in statements.scans(city.rt.db, heard) if pair[0] in names]:
            found[name] = wrong
    assert found == {}
    assert silent == {"ota.sweep"}, "each but this one asks the database something"


def test_no_role_at_rest_reads_a_big_table_whole(city: City) -> None:
    rt = city.rt
    assert city.scans(lambda: Worker(rt).run_due()) == []
    with rt.db.engine.begin() as connection:  # all that recurs is due, and is claimed and settled
        connection.execute(jobs.update().where(jobs.c.key.like("every:%")).values(due_at=clock.now()))
    worker = Worker(rt)
    assert city.scans(lambda: [worker._settle([(job, None)]) for job in worker._claim(16)]) == []

    watch = TrustWatch(rt, on_news=lambda _news: None)
    for _ in range(2 + 2 * MANY // trust_view.PAGE):  # the first views, a page a step
        watch.step()
    assert watch.current().view.standing("00000007") is None
    watch._full = float("-inf")  # the full look, which is due now and then although nothing was committed
    assert city.scans(watch.step) == []
    rt.db.run(lambda connection: trust.touch(connection, "00000007"))
    assert city.scans(watch.step) == []
    reporter = Reporter(rt)
    reporter.acted(trust.Horizon(1), {"00000007": 1})
    reporter.note("00000008", None)
    assert city.scans(reporter._flush) == []
    assert city.scans(lambda: Detector(rt, ruleset.ours()).round()) == []
    healthy = [resolve(name) for name in wiring.load().health.values()]
    assert city.scans(lambda: [health(rt) for health in healthy]) == []


@pytest.mark.parametrize("claim", ["10.0.0.7", "cam-nobody", "00000007"])
@pytest.mark.parametrize("site", [None, "00010007"])
def test_whatever_a_line_calls_a_device_no_look_at_all_devices_finds_it(
    city: City, claim: str, site: str | None
) -> None:
    assert city.scans(lambda: Registry(city.rt.db).resolve(claim, site)) == []


def test_a_scan_is_noticed(city: City) -> None:
    def planted() -> None:
        with city.rt.db.read() as connection:
            devices = metadata.tables["devices"]
            connection.execute(sa.select(devices.c.id).where(devices.c.model == "nowhere")).all()

    assert [table for table, _ in city.scans(planted)] == ["devices"]
    with city.rt.db.engine.begin() as connection:
        connection.exec_driver_sql("DROP INDEX ix_jobs_put_off")
    assert {table for table, _ in city.scans(lambda: health.check(city.rt))} == {"jobs"}
