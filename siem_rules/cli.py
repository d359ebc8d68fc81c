"""``lachan logs``, ``lachan rules`` and ``lachan alerts``."""

import argparse
import time
import urllib.error
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from lachan import cliutil, clock
from lachan.errors import Invalid, LachanError
from lachan.ids import new_id


def logs(argv: list[str]) -> int:
    """``lachan logs send|tail``."""
    parser = cliutil.parser("logs", "Log lines: deliver a file, look at the newest.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    send = verbs.add_parser("send", help="deliver a _bulk file as a collector or platform")
    send.add_argument("file", type=Path, help="NDJSON with action lines, as for Elasticsearch's _bulk")
    send.add_argument("--url", required=True, help="the people door's URL")
    send.add_argument("--token-file", type=Path, required=True, help="file with the API token")
    send.add_argument("--ca", type=Path, help="CA certificate of the people door (PEM)")
    send.add_argument(
        "--shift-to", metavar="TIME", help="'now' or RFC 3339: move all times so that the first line is then"
    )
    tail = verbs.add_parser("tail", help="the newest lines")
    tail.add_argument("--limit", type=int, default=20)
    tail.add_argument("--sender", default="", help="only this sender, for example device:ID")
    tail.add_argument("--follow", action="store_true", help="go on until interrupted")
    for sub in (send, tail):
        cliutil.common(sub, suppress=True)
    args = parser.parse_args(argv)
    return _send(args) if args.verb == "send" else _tail(args)


def rules(argv: list[str]) -> int:
    """``lachan rules list|test``."""
    from siem_rules import ruleset, samples

    parser = cliutil.parser("rules", "Detection rules.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    listing = verbs.add_parser("list", help="the loaded rules")
    test = verbs.add_parser("test", help="load all rules and try their samples")
    test.add_argument("folder", type=Path, nargs="*", help="folders with rules; ours by default")
    for sub in (listing, test):
        cliutil.common(sub, suppress=True)
    args = parser.parse_args(argv)
    if args.verb == "list":
        found = [
            {"name": rule.name, "level": rule.level, "outcome": str(rule.outcome), "alerts": rule.alerts, "subject": rule.subject, "title": rule.title}
            for rule in ruleset.ours().all
        ]  # fmt: skip
        cliutil.show(found, as_json=args.json)
        return cliutil.OK
    loaded = ruleset.load(*args.folder)
    outcomes = list(samples.run(loaded, *args.folder))
    shown = [
        {"file": one.file, "sample": one.title, "passed": one.passed, "expected": sorted(one.expected), "raised": sorted(one.raised)}
        for one in outcomes
    ]  # fmt: skip
    text = "\n".join(f"{'ok  ' if one.passed else 'FAIL'} {one.file}: {one.title}" for one in outcomes)
    cliutil.show(shown, as_json=args.json, text=f"{text}\n{len(loaded.all)} rules, {len(outcomes)} samples")
    return cliutil.OK if all(one.passed for one in outcomes) else cliutil.FAILED


def alerts(argv: list[str]) -> int:
    """``lachan alerts list|show|ack|comment|close``."""
    from siem_rules import service

    args = _alert_words(service.VERDICTS).parse_args(argv)
    with cliutil.opened(args.data) as rt:
        who = cliutil.operator()
        if args.verb == "list":
            with rt.db.read() as connection:
                rows = service.listed(connection, who, state=args.state, limit=args.limit)
            cliutil.show(rows if args.json else [_row(row) for row in rows], as_json=args.json)
            return cliutil.OK
        with rt.db.write() as connection:
            if args.verb == "ack":
                service.acknowledge(connection, who, args.id)
            elif args.verb == "comment":
                service.comment(connection, who, args.id, text=args.text)
            elif args.verb == "close":
                service.close(connection, who, args.id, verdict=args.verdict)
            found = service.get(connection, who, args.id)
        rt.wake()
    cliutil.show(found, as_json=args.json, text=None if args.json else _story(found))
    return cliutil.OK


def _alert_words(verdicts: tuple[str, ...]) -> argparse.ArgumentParser:
    parser = cliutil.parser("alerts", "Alerts and why they were raised.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    listing = verbs.add_parser("list", help="newest first")
    listing.add_argument("--state", default="", choices=["", "open", "acknowledged", "closed"])
    listing.add_argument("--limit", type=int, default=50)
    cliutil.common(listing, suppress=True)
    for verb, about in (
        ("show", "one alert with its why"),
        ("ack", "say that you look at it"),
        ("comment", "add a comment"),
        ("close", "close it with a verdict"),
    ):
        sub = verbs.add_parser(verb, help=about)
        sub.add_argument("id")
        if verb == "comment":
            sub.add_argument("text")
        if verb == "close":
            sub.add_argument("--verdict", required=True, choices=verdicts)
        cliutil.common(sub, suppress=True)
    return parser


class NotDelivered(LachanError):
    """The door did not take the lines."""

    status, title, hint = 502, "Lines not delivered", "Check URL, token and CA; sending again is safe, lines have ids."


def _send(args: argparse.Namespace) -> int:
    body = args.file.read_bytes()
    if args.shift_to:
        from lachan.recording import shift

        try:
            body = shift(body, clock.now() if args.shift_to == "now" else datetime.fromisoformat(args.shift_to))
        except ValueError as error:
            raise Invalid(str(error), file=str(args.file)) from error
    found = _post(args.url.rstrip("/") + "/_bulk", body, token=args.token_file.read_text("utf-8").strip(), ca=args.ca)
    refused = [item for item in found["items"] if "error" in next(iter(item.values()))]
    result = {"delivered": len(found["items"]) - len(refused), "refused": refused}
    cliutil.show(result, as_json=args.json, text=f"{result['delivered']} lines delivered, {len(refused)} refused")
    return cliutil.FAILED if refused else cliutil.OK


def _post(url: str, body: bytes, *, token: str, ca: Path | None) -> Any:
    import ssl

    if not url.startswith(("https://", "http://")):
        raise Invalid("The URL must begin with https:// or http://.")
    request = urllib.request.Request(url, data=body, method="POST")  # noqa: S310  checked above
    request.add_header("Authorization", f"Bearer {token}")
    request.add_header("Content-Type", "application/x-ndjson")
    request.add_header("Idempotency-Key", new_id())
    context = ssl.create_default_context(cafile=None if ca is None else str(ca)) if url.startswith("https://") else None
    try:
        with urllib.request.urlopen(request, context=context, timeout=30) as answer:  # noqa: S310  checked above
            return orjson.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            raise NotDelivered(
                f"The door answered {error.code}: {error.read(500).decode('utf-8', 'replace')}"
            ) from error
    except OSError as error:
        raise NotDelivered(f"The door cannot be reached: {error}") from error


def _tail(args: argparse.Namespace) -> int:
    from siem_rules import logs as log

    with cliutil.opened(args.data) as rt:
        shown: list[log.Line] = []
        while True:
            found = [
                line for line in reversed(log.newest(rt, limit=args.limit, sender=args.sender)) if line not in shown
            ]
            if args.json:
                for line in found:
                    print(orjson.dumps({"received": line.received, "sender": line.sender, "line": line.line}).decode())
            else:
                for line in found:
                    print(
                        f"{clock.iso(line.received)} {cliutil.safe(line.sender)} {cliutil.safe(line.line)}", flush=True
                    )
            if not args.follow:
                return cliutil.OK
            shown = (shown + found)[-1000:]
            time.sleep(0.5)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "created": clock.iso(row["created_at"])[:19], "severity": row["severity"], "state": row["state"], "outcome": row["outcome"],
        "subject": ("" if row["subject_bound"] else "(unbound) ") + (row["subject"] or "-"), "rule": row["rule_title"], "id": row["id"],
    }  # fmt: skip


def _story(found: dict[str, Any]) -> str:
    why = found["why"]
    lines = [
        f"{found['rule_title']} ({found['severity']}, {found['state']})", why["description"],
        f"device:   {found['device_id'] or 'none bound'}; the lines name {found['subject'] or 'nobody'}",
        f"senders:  {', '.join(found['senders'])} ({found['sources']} independent)",
        f"matches:  {why['count']} in {why['window_seconds']:.0f} s ({why['condition']}), {found['first_at']} to {found['last_at']}",
        *(f"field:    {name} = {value}" for name, value in {**why["group"], **why["fields"]}.items()), "evidence:",
        *(f"  {line['received']} {line['line']}" for line in found["evidence"]),
        *(f"comment:  {comment['author']}: {comment['text']}" for comment in found["comments"]),
    ]  # fmt: skip
    return "\n".join(cliutil.safe(line) for line in lines)
