"""``lachan ledger``: export, verify, status, checkpoint, key. ``verify FILE`` needs no installation and imports nothing of one."""

import argparse
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from lachan import cliutil, clock
from lachan.errors import Invalid
from lachan.files import write_atomically
from lachan.ledger.errors import ExportRefused, NotSealed
from lachan.ledger.note import Verifier


def main(argv: list[str]) -> int:
    """Run one verb; give the exit code (0 done, 1 refused, 2 wrong words, 3 no installation or signer, 4 nothing sealed)."""
    parser = cliutil.parser("ledger", "Export and verify the evidence: every decision, sealed under a signed root.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    add = verbs.add_parser("export", help="write events with their proofs, for an auditor")
    add.add_argument("--device", metavar="NAME", help="only events about this device")
    add.add_argument("--vendor", metavar="NAME", help="only events of this vendor")
    add.add_argument("--from", dest="start", metavar="TIME", help="recorded at or after (RFC 3339)")
    add.add_argument("--to", dest="end", metavar="TIME", help="recorded before (RFC 3339)")
    add.add_argument("--since", metavar="FILE", help="an earlier checkpoint: its consistency proof goes in")
    add.add_argument("-o", "--output", metavar="FILE", help="file to write (standard output)")
    add = verbs.add_parser(
        "verify", help="check an export offline, with the ledger's public key; or the installation itself"
    )
    add.add_argument(
        "file", metavar="FILE", nargs="?", help="the export, - for standard input; none: the installation's own rows"
    )
    add.add_argument(
        "--key", metavar="FILE", help="the ledger's public key, had from elsewhere; an installation has its own"
    )
    add.add_argument("--since", metavar="FILE", help="an earlier checkpoint: finds a cut tail and a rewritten history")
    verbs.add_parser("status", help="how much is sealed, and whether anything stands in the way")
    verbs.add_parser("checkpoint", help="seal now and print the signed checkpoint; keep it elsewhere")
    verbs.add_parser("key", help="print the ledger's public key")
    for verb in verbs.choices.values():
        cliutil.common(verb, suppress=True)
    args = parser.parse_args(argv)
    if args.verb == "verify" and args.file is not None:
        if args.key is None:
            parser.error("verify FILE needs --key KEY, the ledger's public key, had from elsewhere")
        return _verify(args)
    with cliutil.opened(args.data) as rt:
        run = {"export": _export, "status": _status, "checkpoint": _checkpoint, "key": _key, "verify": _verify_rows}[
            args.verb
        ]
        return run(rt, args)


def _verify(args: argparse.Namespace) -> int:
    from lachan.ledger import document
    from lachan.ledger.verify import verify

    key = Verifier.parse(_text(args.key))
    since = _text(args.since) if args.since else None
    try:
        with _opened(args.file) as file:
            found = verify(document.lines(file), key, since=since)
    except ExportRefused as error:
        findings = error.fields["findings"]
        lines = [f"REFUSED: {error.fields['count']} finding(s)"]
        lines += [_one_line(_words(finding)) for finding in findings]
        cliutil.show({"ok": False, **error.fields}, as_json=args.json, text="\n".join(lines))
        return cliutil.FAILED
    result = {**asdict(found), "ok": True, "root": found.root.hex()}
    lines = [
        f"OK: {found.events} of {found.size} events of {_one_line(found.origin)} are as they were sealed.",
        f"root {found.root.hex()}",
    ]
    if found.since is not None:
        lines.append(f"The ledger only grew since the checkpoint of {found.since} events.")
    lines += [f"This export cannot show {_one_line(unknown)}." for unknown in found.cannot_know]
    cliutil.show(result, as_json=args.json, text="\n".join(lines))
    return cliutil.OK


def _verify_rows(rt: Any, args: argparse.Namespace) -> int:
    """Check the installation's own rows: each copy beside its body, then the whole of it as an export."""
    from lachan.ledger import copies
    from lachan.ledger.export import export
    from lachan.ledger.findings import MOST_FINDINGS
    from lachan.ledger.verify import verify

    count, first = 0, list[str]()
    for finding in copies.compare(rt.db):
        count += 1
        if len(first) < MOST_FINDINGS:
            first.append(str(finding))
    key = Verifier.parse(_text(args.key or str(rt.settings.data / "ledger" / "key")))
    since = _text(args.since) if args.since else None
    sealed: int | None = None
    try:
        sealed = verify(export(rt), key, since=since).size
    except NotSealed:
        pass  # nothing yet: the copies were compared all the same
    except ExportRefused as error:
        count += error.fields["count"]
        first += [_words(finding) for finding in error.fields["findings"]]
    if count:
        lines = [f"REFUSED: {count} finding(s)", *(_one_line(one) for one in first)]
        cliutil.show({"ok": False, "count": count, "findings": first}, as_json=args.json, text="\n".join(lines))
        return cliutil.FAILED
    words = "nothing is sealed yet" if sealed is None else f"{sealed} events are as they were sealed"
    cliutil.show(
        {"ok": True, "size": sealed}, as_json=args.json, text=f"OK: {words}, and every row says what its body says."
    )
    return cliutil.OK


def _words(finding: dict[str, Any]) -> str:
    which = ""
    if finding["index"] is not None:
        which = f"event #{finding['index']} {finding['name'] or '(name unknown)'} {finding['id'] or '(id unknown)'}: "
    return f"{finding['fault']}: {which}{finding['detail']}"


def _export(rt: Any, args: argparse.Namespace) -> int:
    from lachan import devices
    from lachan.ledger.export import Period, export

    device_id = None
    if args.device:
        with rt.db.read() as connection:
            device_id = devices.by_name(connection, args.device).id
    period = Period(_moment(args.start), _moment(args.end))
    since = _text(args.since) if args.since else ""
    lines = export(rt, device_id=device_id, vendor=args.vendor, period=period, since=since)
    if not args.output:
        sys.stdout.buffer.writelines(lines)
        return cliutil.OK
    path = Path(args.output)
    length = _write(path, lines)
    result = {"file": str(path), "bytes": length}
    cliutil.show(
        result, as_json=args.json, text=f"{path}: {length} bytes. Check it: lachan ledger verify {path} --key KEY"
    )
    return cliutil.OK


def _write(path: Path, lines: Iterable[bytes]) -> int:
    """Write a file in one pass, whole or not at all; give its length in bytes."""
    try:
        return write_atomically(path, lines)
    except OSError as error:
        raise Invalid(f"{path} cannot be written: {error.strerror}") from error


def _status(rt: Any, args: argparse.Namespace) -> int:
    from lachan.ledger import sealer, tree

    with rt.db.read() as connection:
        last, waiting = sealer.latest(connection), tree.waiting(connection)
        size = tree.frontier(connection).size
    stopped = sealer.stopped(rt.settings.data)
    result = {
        "sealed": last[0].size if last else 0, "root": last[0].root.hex() if last else None, "leaves": size,
        "waiting": waiting is not None, "stopped": stopped or None,
    }  # fmt: skip
    cliutil.show(result, as_json=args.json)
    return cliutil.FAILED if stopped else cliutil.OK


def _checkpoint(rt: Any, args: argparse.Namespace) -> int:
    from lachan.ledger import sealer

    sealer.seal_now(rt)
    with rt.db.read() as connection:
        last = sealer.latest(connection)
    if last is None:
        raise NotSealed
    if args.json:
        cliutil.show({"size": last[0].size, "root": last[0].root.hex(), "note": last[1]}, as_json=True)
    else:
        sys.stdout.write(last[1])
    return cliutil.OK


def _key(rt: Any, args: argparse.Namespace) -> int:
    key = Verifier.parse(_text(str(rt.settings.data / "ledger" / "key")))
    cliutil.show({"name": key.name, "key": key.vkey}, as_json=args.json, text=key.vkey)
    return cliutil.OK


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return clock.parse(text)
    except ValueError as error:
        raise Invalid(f"{text!r} is no time: {error}") from error


def _opened(path: str) -> Any:
    if path == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}") from error


def _text(path: str) -> str:
    with _opened(path) as file:
        try:
            return str(file.read(1 << 16).decode())
        except UnicodeDecodeError as error:
            raise Invalid(f"{path} is no text.") from error


def _one_line(text: object) -> str:
    return cliutil.safe(text).replace("\n", "\\n")
