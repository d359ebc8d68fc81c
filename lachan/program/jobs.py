"""``lachan jobs``: what is due and what was given up; and making that due again."""

import argparse
from typing import Any

import sqlalchemy as sa

from lachan import cliutil, clock
from lachan.errors import NotFound
from lachan.moments import ahead, bind, moment
from lachan.statements import Statement
from lachan.wiring import Lane
from lachan.work.jobs import GIVEN_UP, jobs

MOST = 1000


def main(argv: list[str]) -> int:
    """``lachan jobs list|retry``."""
    parser = cliutil.parser("jobs", "Due work: what waits, what was given up, and making that due again.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    add = verbs.add_parser("list", help="the jobs that wait or were given up, the oldest first")
    add.add_argument("--state", choices=("open", "poisoned"), help="only those that wait, or that were given up")
    add.add_argument("--lane", choices=[str(lane) for lane in Lane], help="only those of a lane")
    add.add_argument("--kind", help="only those of a kind")
    add.add_argument("--limit", type=int, default=100, help=f"most jobs to list, at most {MOST}")
    add = verbs.add_parser("retry", help="make given-up jobs due again, by id or by kind")
    add.add_argument("ids", nargs="*", metavar="ID")
    add.add_argument("--kind", help="all of a kind")
    for verb in verbs.choices.values():
        cliutil.common(verb, suppress=True)
    words = parser.parse_args(argv)
    if words.verb == "retry" and bool(words.ids) == bool(words.kind):
        parser.error("name jobs by their ids, or a kind by --kind; `lachan jobs list --state poisoned` shows both")
    with cliutil.opened(words.data) as rt:
        rows = _list(rt, words) if words.verb == "list" else _retry(rt, words)
    cliutil.show(rows, as_json=words.json)
    return cliutil.OK


def _list(rt: Any, words: argparse.Namespace) -> list[dict[str, Any]]:
    c = jobs.c
    query = sa.select(c.id, c.kind, c.lane, c.state, c.due_at, c.lease_until, c.failures, c.sender, c.last_error)
    for name in ("state", "lane", "kind"):
        if wanted := getattr(words, name):
            query = query.where(c[name] == wanted)
    query = query.order_by(c.due_at, c.id).limit(max(1, min(words.limit, MOST)))
    with rt.db.read() as connection:
        found = connection.execute(query).mappings().all()
    return [
        {
            "id": row["id"], "kind": row["kind"], "lane": row["lane"], "state": row["state"], "due": clock.iso(row["due_at"]),
            "at work": row["lease_until"] is not None, "failures": row["failures"], "sender": row["sender"],
            "last error": (row["last_error"] or "").strip().rpartition("\n")[2][:200],
        }
        for row in found
    ]  # fmt: skip


def _retry(rt: Any, words: argparse.Namespace) -> list[dict[str, Any]]:
    """Make given-up jobs due now.

    Raises:
        NotFound: an id names none; nothing was changed.
    """

    def unit(connection: sa.Connection) -> list[str]:
        which = jobs.c.kind == words.kind if words.kind else jobs.c.id.in_(words.ids)
        ids = list(connection.execute(sa.select(jobs.c.id).where(GIVEN_UP, which)).scalars())
        if missing := sorted(set(words.ids) - set(ids)):
            raise NotFound(f"No given-up job {missing[0]}; `lachan jobs list --state poisoned` shows them.")
        for job_id in ids:
            _RETRY.execute(connection, id_=job_id, now_=ahead())
        return ids

    ids = rt.db.run(unit)
    rt.wake("work")
    return [{"id": job_id, "state": "open"} for job_id in ids]


def _again(dialect: str) -> sa.Update:
    now = moment(dialect, bind("now_"))
    fresh = {"state": "open", "failures": 0, "lease_until": None, "fence": jobs.c.fence + 1, "turn_at": None}
    return jobs.update().where(jobs.c.id == sa.bindparam("id_"), GIVEN_UP).values(due_at=now, set_at=now, **fresh)


_RETRY = Statement(_again)
