"""``lachan doctor``: looks whether everything that is needed is there, and says what to do where it is not."""

import shutil
import stat
import sys
from collections.abc import Iterator
from typing import Any

from lachan import cliutil
from lachan.errors import LachanError


def main(argv: list[str]) -> int:
    """``lachan doctor``; exit code 1 when something that is needed is missing."""
    parser = cliutil.parser("doctor", "Look whether everything that is needed is there.")
    args = parser.parse_args(argv)
    rows = [{"what": what, "state": state, "next": advice} for what, state, advice in check(args.data)]
    cliutil.show(rows, as_json=args.json)
    return cliutil.FAILED if any(row["state"] in {"missing", "unknown"} for row in rows) else cliutil.OK


def check(data: str | None) -> Iterator[tuple[str, str, str]]:
    """Give (what, ok/missing/unknown/absent, advice) for each thing; ``absent`` things are optional."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield "python", "ok" if sys.version_info >= (3, 11) else "missing", f"{version}; 3.11 or newer is needed"
    for program, use in (("openssl", "to check signatures by hand"), ("mosquitto", "an MQTT broker that is driven")):
        yield program, "ok" if shutil.which(program) else "absent", use
    try:
        with cliutil.opened(data) as rt:
            yield from _installation(rt)
    except LachanError as error:
        yield "installation", "missing", f"{error.detail} {error.hint}"


def _installation(rt: Any) -> Iterator[tuple[str, str, str]]:
    from lachan import health
    from lachan.errors import DatabaseAway
    from lachan.program import migrate
    from lachan.wiring import resolve

    mode = stat.S_IMODE(rt.settings.data.stat().st_mode)
    yield "data folder", "ok" if mode == 0o700 else "missing", f"{rt.settings.data}, mode {mode:04o}"
    try:
        yield "schema", "ok", f"{rt.db.dialect}, revision {migrate.current(rt.db)}"
    except DatabaseAway as error:
        yield "schema", "unknown", error.detail
    for found in health.look(rt):
        advice = " ".join(f"{problem.what} {problem.next}" for problem in found.problems)
        yield found.name, _STATES[found.state], advice or found.unknown or "is in order"
    yield from _copies(rt)
    for name in rt.wiring.described:
        yield from ((what, "ok", said) for what, said in resolve(name)(rt))


def _copies(rt: Any) -> Iterator[tuple[str, str, str]]:
    """Tell whether the rows of the facts say what was sealed."""
    from lachan.errors import DatabaseAway
    from lachan.ledger import copies

    try:
        first, count = None, 0
        for finding in copies.compare(rt.db):
            first, count = first or str(finding), count + 1
    except DatabaseAway as error:
        yield "ledger's rows", "unknown", error.detail
        return
    if first is None:
        yield "ledger's rows", "ok", "each says what its sealed body says"
    else:
        yield (
            "ledger's rows",
            "missing",
            f"{count} say other than what was sealed, {first}: lachan ledger verify names them",
        )


_STATES = {"ok": "ok", "wrong": "missing", "unknown": "unknown"}
