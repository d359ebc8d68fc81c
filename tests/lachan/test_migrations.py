"""The one history of migrations makes exactly the tables that the rooms declare."""

import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from cryptography.hazmat.primitives import hashes

from lachan import wiring
from lachan.database import Database, metadata
from lachan.devices import search
from lachan.program import migrate
from lachan.settings import Settings
from tests.api.support import Authority
from tests.support.view import view_of

NAME = "trust_refused_certificates"
BEFORE_WAITING_FOR = "0010"


def test_the_history_leads_to_the_declared_tables(settings: Settings) -> None:
    wiring.load().import_tables()
    db = Database(settings.url, pool_size=2)
    try:
        migrate.upgrade(db)
        migrate.upgrade(db)  # a second time changes nothing
        with db.read() as connection:
            # FTS5's tables on SQLite nobody declares, and the indexes of the search are each of one database.
            undeclared = (search.TABLE, "ix_devices_folded", "ix_devices_name_folded")
            opts = {
                "compare_type": False,
                "include_name": lambda name, *_: not str(name).startswith(undeclared),
                "include_object": lambda _object, name, *_: not str(name).startswith(undeclared),
            }
            context = MigrationContext.configure(connection, opts=opts)
            with warnings.catch_warnings():  # which says of such an index that it compares none over an expression
                warnings.filterwarnings("ignore", "autogenerate skipping metadata-specified expression-based index")
                assert compare_metadata(context, metadata) == []
            found = {name for name in sa.inspect(connection).get_table_names() if not name.startswith(search.TABLE)}
        assert found == {*metadata.tables, "alembic_version"}
        assert migrate.current(db) is not None
    finally:
        db.close()


def test_what_was_refused_by_its_bytes_is_refused_by_what_was_signed(settings: Settings, tmp_path: Path) -> None:
    """An installation at 0001 with certificates on hold, revoked and valid; 0002 makes the doors' list again."""
    db, authority = Database(settings.url, pool_size=2), Authority(tmp_path / "authority", "issuing")
    rows, now = {state: authority.device("d") for state in ("held", "revoked", "valid")}, datetime.now(UTC)
    moments = {"state_since": now, "issued_at": now, "not_before": now, "not_after": now + timedelta(days=1)}
    try:
        with db.write() as connection:
            step(connection, "0001")
            old = sa.MetaData()
            old.reflect(connection, only=["devices", "pki_certificates", NAME])
            device = dict.fromkeys(
                ("id", "name", "vendor", "model", "serial_number", "site", "criticality", "state"), "d"
            )
            connection.execute(old.tables["devices"].insert().values(**device, created_at=now))
            for state, made in rows.items():
                shown = made.certificate.fingerprint(hashes.SHA256()).hex()
                texts = dict.fromkeys(("id", "serial_number", "profile", "subject", "spki_sha256"), state)
                values = {**texts, **moments, "device_id": "d", "fingerprint": shown, "certificate": made.der}
                connection.execute(old.tables["pki_certificates"].insert().values(**values, state=state))
            refused = {"fingerprint": "stale", "device_id": "d", "reason": "revoked", "until": moments["not_after"]}
            connection.execute(old.tables[NAME].insert().values(**refused))
        migrate.upgrade(db)
        found = view_of(db)
        assert {state: found.refusal(made.keys) for state, made in rows.items()} == {
            "held": "suspended", "revoked": "revoked", "valid": None,
        }  # fmt: skip
        with db.write() as connection:
            step(connection, "0001")
            left = connection.execute(old.tables[NAME].select()).all()
        assert {row.fingerprint: row.reason for row in left} == {
            rows[state].certificate.fingerprint(hashes.SHA256()).hex(): reason
            for state, reason in (("held", "suspended"), ("revoked", "revoked"))
        }
    finally:
        db.close()


def step(connection: sa.Connection, revision: str) -> None:
    """Go to a revision, up or down."""
    made = migrate.config()
    made.attributes["connection"] = connection
    current = MigrationContext.configure(connection).get_current_revision()
    (command.upgrade if current is None else command.downgrade)(made, revision)


def test_rows_survive_the_making_of_their_table_anew(settings: Settings) -> None:
    """What refers to a table that SQLite makes anew is still there, and foreign keys are in force afterwards."""
    wiring.load().import_tables()
    db = Database(settings.url, pool_size=2)
    at = "'2026-01-01 00:00:00'"
    certificate = (
        "INSERT INTO pki_certificates (id, serial_number, profile, subject, fingerprint, spki_sha256, certificate, not_before,"
        f" not_after, state, state_since, issued_at) VALUES ('c1', '5a', 'camera', 'CN=c', 'f', 's', '', {at}, {at}, 'valid',"
        f" {at}, {at})"
    )
    hold = f"INSERT INTO pki_holds VALUES ('c1', 'request', '', 'an', {at})"
    try:
        with db.write() as connection:
            step(connection, "0001")
            connection.execute(sa.text(certificate))
            connection.execute(sa.text(hold))
            connection.execute(sa.text("INSERT INTO pki_revisions VALUES (1, 7)"))
        migrate.upgrade(db)
        with db.read() as connection:
            assert connection.execute(sa.text("SELECT certificate_id FROM pki_holds")).scalars().all() == ["c1"]
            found = connection.execute(sa.text("SELECT authority, revision FROM pki_revisions")).all()
            assert [tuple(row) for row in found] == [("issuing", 7)]
        with db.write() as connection, pytest.raises(sa.exc.IntegrityError):
            connection.execute(sa.text("DELETE FROM pki_certificates"))
    finally:
        db.close()


def test_what_a_run_waits_for_is_taken_apart_and_put_together_again(settings: Settings) -> None:
    """Runs of an installation at the revision before; each keeps what it waits for, there and back."""
    texts = {"a": "approval:action--1", "o": "outcome:action--2", "c": "0199a3c0-0000-7000-8000-000000000000", "n": ""}
    apart = {
        "a": ("approval", "action--1"), "o": ("outcome", "action--2"), "c": ("containment", texts["c"]), "n": (None, ""),
    }  # fmt: skip
    db, now = Database(settings.url, pool_size=2), datetime.now(UTC)
    try:
        with db.write() as connection:
            step(connection, BEFORE_WAITING_FOR)
            old = sa.MetaData()
            old.reflect(connection, only=["runs"])
            same = dict.fromkeys(
                ("playbook_id", "playbook_name", "playbook_version", "digest", "mode", "state", "step"), "x"
            )
            for name, text in texts.items():
                row = {"id": name, "event_id": name, "facts": {}, "variables": {}, "waiting_for": text}
                connection.execute(old.tables["runs"].insert().values(**row, **same, created_at=now, updated_at=now))
        migrate.upgrade(db)
        with db.read() as connection:
            found = connection.execute(sa.text("SELECT id, waiting_for_kind, waiting_for_ref FROM runs")).all()
        assert {row.id: (row.waiting_for_kind, row.waiting_for_ref) for row in found} == apart
        with db.write() as connection:
            step(connection, BEFORE_WAITING_FOR)
            assert dict(connection.execute(sa.text("SELECT id, waiting_for FROM runs")).all()) == texts  # type: ignore[arg-type]
    finally:
        db.close()


def test_of_several_open_runs_of_a_device_and_playbook_the_oldest_goes_on(settings: Settings) -> None:
    """An installation at 0016 with a flood's runs; 0017 lets one be open, and touches nobody else's."""
    db, now = Database(settings.url, pool_size=2), datetime.now(UTC)
    states = {
        "1": ("cam", "p", "ended"), "2": ("cam", "p", "waiting"), "3": ("cam", "p", "running"), "4": ("cam", "p", "waiting"),
        "5": ("cam", "q", "waiting"), "6": ("lift", "p", "waiting"),
    }  # fmt: skip
    try:
        with db.write() as connection:
            step(connection, "0016")
            old = sa.MetaData()
            old.reflect(connection, only=["runs"])
            same = dict.fromkeys(("playbook_name", "playbook_version", "digest", "mode", "step"), "x")
            for name, (device, playbook, state) in states.items():
                row = {"id": name, "event_id": name, "device_id": device, "playbook_id": playbook, "state": state}
                row |= {"facts": {}, "variables": {}, "created_at": now, "updated_at": now}
                connection.execute(old.tables["runs"].insert().values(**row, **same))
        migrate.upgrade(db)
        with db.read() as connection:
            found = dict(connection.execute(sa.text("SELECT id, state FROM runs")).all())  # type: ignore[arg-type]
        assert found == {"1": "ended", "2": "waiting", "3": "ended", "4": "ended", "5": "waiting", "6": "waiting"}
        with db.write() as connection:
            step(connection, "0016")
        migrate.upgrade(db)
    finally:
        db.close()
