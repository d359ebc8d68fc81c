"""Sealing and exporting on PostgreSQL, and what only PostgreSQL can do: commit events in another order than their numbers."""

import subprocess
import sys
import threading
from pathlib import Path

import sqlalchemy as sa

from lachan import events
from lachan.identity.principal import system
from lachan.ledger import sealer, tree
from lachan.ledger.export import export
from lachan.ledger.models import leaves
from lachan.ledger.models import state as tree_state
from lachan.ledger.verify import verify
from lachan.runtime import Runtime
from lachan.work import outbox
from lachan.work.outbox import events as event_table
from tests.ledger.test_export import (  # noqa: F401
    key,
    story,
    test_all_of_it_and_parts_of_it,
    test_from_an_earlier_checkpoint,
)
from tests.ledger.test_lease import (  # noqa: F401
    machines,
    test_a_history_that_another_signer_signed_is_not_signed_anew,
    test_a_lease_is_taken_in_turn,
    test_two_machines_race_and_one_signs,
)
from tests.ledger.test_sealer import (  # noqa: F401
    check,
    happen,
    test_batches_are_one_tree,
    test_pages_are_bounded_and_a_turn_ends,
    test_sealing_grows_with_the_events,
    unrecorded,
)


def test_an_open_transaction_with_a_lower_number_is_never_overtaken(ledger_rt: Runtime):
    rt = ledger_rt
    start = sealer.seal_now(rt)
    slow = rt.db.engine.connect()
    transaction = slow.begin()
    late = outbox.append(slow, events.SignedIn(user="slow"), actor=system("test"))  # has its seq, is not committed
    happen(rt, 5, "quick")
    with rt.db.read() as connection:
        quick = connection.execute(sa.select(event_table.c.seq)).scalars().all()
    assert sealer.seal_now(rt) == start  # five events are visible, none may be sealed yet
    with rt.db.read() as connection:
        assert tree.waiting(connection)
    transaction.commit()
    slow.close()
    assert sealer.seal_now(rt) == start + 6
    check(rt)
    with rt.db.read() as connection:
        query = sa.select(event_table.c.id, event_table.c.seq).join(leaves, leaves.c.event_seq == event_table.c.seq)
        order = connection.execute(query.order_by(leaves.c.leaf_index)).all()
    assert order[start].id == late
    assert order[start].seq < min(seq for seq in quick if seq > order[start].seq)


def test_a_lower_number_that_commits_later_is_sealed_too(ledger_rt: Runtime):
    """The other order: a transaction takes its number early but writes its first row late, so its id is higher."""
    rt = ledger_rt
    start = sealer.seal_now(rt)
    with rt.db.write() as connection:
        low = connection.execute(sa.text("SELECT nextval('events_seq_seq')")).scalar_one()
    happen(rt, 3)
    assert sealer.seal_now(rt) == start + 3
    with rt.db.write() as connection:
        fact = outbox.append(connection, events.SignedIn(user="late"), actor=system("test"))
        connection.execute(event_table.update().where(event_table.c.id == fact).values(seq=low))
    assert sealer.seal_now(rt) == start + 4
    check(rt)


def test_many_writers_and_a_sealer_lose_nothing(ledger_rt: Runtime):
    rt = ledger_rt
    start = sealer.seal_now(rt)
    failures: list[Exception] = []

    def write(name: str) -> None:
        try:
            for i in range(40):
                with rt.db.write() as connection:
                    outbox.append(connection, events.SignedIn(user=f"{name}{i}"), actor=system("test"))
                    if i % 5 == 0:
                        connection.execute(sa.text("SELECT pg_sleep(0.01)"))
        except Exception as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(name,)) for name in "abcdef"]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        sealer.seal_now(rt)
    assert failures == []
    assert sealer.seal_now(rt) == start + 240
    check(rt)
    assert verify(export(rt), key(rt)).events == start + 240


def test_a_cluster_that_counts_from_the_start(ledger_rt: Runtime):
    """After a restore into a new cluster the old transaction ids are far ahead; nothing is lost or sealed twice."""
    rt = ledger_rt
    happen(rt, 3)
    size = sealer.seal_now(rt)
    happen(rt, 2, "old cluster, unsealed")
    with rt.db.write() as connection:
        connection.execute(event_table.update().values(txid=event_table.c.txid + 1_000_000))
        connection.execute(tree_state.update().values(position=tree_state.c.position + 1_000_000))
    happen(rt, 4, "new cluster")
    assert sealer.seal_now(rt) == size + 6
    happen(rt, 1)
    assert sealer.seal_now(rt) == size + 7
    check(rt)


def test_killed_between_two_steps(ledger_rt: Runtime, tmp_path: Path):
    """SIGKILL, not an exception: another process seals and dies after the signer has signed."""
    rt = ledger_rt
    happen(rt, 4)
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from lachan.ledger import sealer\n"
        "from lachan.runtime import Runtime\n"
        "from lachan.settings import Settings\n"
        "sealer.reached = lambda step: step == 'ledger.signed' and os.kill(os.getpid(), signal.SIGKILL)\n"
        "sealer.seal_now(Runtime.open(Settings.load(sys.argv[1], database_url=sys.argv[2], signer_socket=Path(sys.argv[3]))))\n"
    )
    url = rt.db.url.render_as_string(hide_password=False)
    words = [sys.executable, "-c", program, str(rt.settings.data), url, str(rt.settings.signer_path)]
    killed = subprocess.run(words, capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    assert len(unrecorded(rt)) == 1
    happen(rt, 2)
    sealer.seal_now(rt)
    check(rt)
    assert unrecorded(rt) == []
