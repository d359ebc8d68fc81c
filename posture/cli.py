"""``lachan posture`` and ``lachan engagement``. Approving is done at the console, by a person's session."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from lachan import cliutil, clock, devices
from lachan.errors import Invalid
from posture import declarations, engagements, service
from posture.catalogue import catalogue
from posture.engagements import Engagement, EngagementWanted, Method
from posture.evaluate import legal_day


def posture(argv: list[str]) -> int:
    """``lachan posture run|show|catalogue|declare``."""
    parser = cliutil.parser("posture", "Criteria, assessments and verdicts.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="assess a device")
    run.add_argument("device", metavar="NAME")
    run.add_argument("--engagement", metavar="ID", help="approved engagement; without one nothing is sent")
    run.add_argument("--as-of", type=date.fromisoformat, metavar="DAY", help="day whose instruments are asked")
    show = verbs.add_parser("show", help="the verdicts of a device, with reasons")
    show.add_argument("device", metavar="NAME")
    listing = verbs.add_parser("catalogue", help="the criteria, and what about them is unverified")
    listing.add_argument("--as-of", type=date.fromisoformat, metavar="DAY")
    declare = verbs.add_parser("declare", help="take a manufacturer's declaration about a model")
    declare.add_argument("file", type=Path, metavar="FILE.json")
    for sub in (run, show, listing, declare):
        cliutil.common(sub, suppress=True)
    args = parser.parse_args(argv)
    if args.verb == "catalogue":
        return _catalogue(args)
    with cliutil.opened(args.data) as rt:
        return {"run": _run, "show": _show, "declare": _declare}[args.verb](rt, args)


def engagement(argv: list[str]) -> int:
    """``lachan engagement request|list|stop``."""
    parser = cliutil.parser("engagement", "Leave to look at devices: who, what, when, how fast.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    ask = verbs.add_parser("request", help="ask; another person approves at the console")
    ask.add_argument("devices", nargs="+", metavar="NAME")
    ask.add_argument("--reason", required=True)
    ask.add_argument("--ports", default="80,443", help="comma-separated TCP ports (80,443)")
    ask.add_argument("--methods", default="tls,http", help=f"comma-separated out of {', '.join(Method)}")
    ask.add_argument("--network", action="append", default=[], metavar="CIDR", help="for devices known by name")
    ask.add_argument("--hours", type=float, default=24.0, help="length of the window, from now (24)")
    ask.add_argument("--rate", type=float, default=5.0, help="connections a second and device (5)")
    ask.add_argument("--burst", type=int, default=5, help="connections at once before the rate bites (5)")
    ask.add_argument("--loopback", action="store_true", help="devices on this very machine are meant")
    ask.add_argument("--lockout", action="store_true", help="try logins also where a lock-out is declared")
    listing = verbs.add_parser("list", help="engagements, newest first")
    end = verbs.add_parser("stop", help="end an engagement at once")
    end.add_argument("id", metavar="ID")
    end.add_argument("--reason", default="stopped by an operator")
    for sub in (ask, listing, end):
        cliutil.common(sub, suppress=True)
    args = parser.parse_args(argv)
    with cliutil.opened(args.data) as rt:
        return _engagement(rt, args)


def _engagement(rt: Any, args: Any) -> int:
    actor = cliutil.operator()
    if args.verb == "list":
        with rt.db.read() as connection:
            rows = [_brief(found) for found in engagements.find(connection, principal=actor, limit=1000)]
        cliutil.show(rows, as_json=args.json)
        return cliutil.OK
    with rt.db.write() as connection:
        if args.verb == "stop":
            found = engagements.stop(connection, args.id, actor=actor, reason=args.reason)
        else:
            ids = tuple(devices.by_name(connection, name).id for name in args.devices)
            found = engagements.request(connection, _wanted(args, ids), actor=actor)
    cliutil.show(_brief(found), as_json=args.json)
    return cliutil.OK


def _wanted(args: Any, device_ids: tuple[str, ...]) -> EngagementWanted:
    try:
        ports = tuple(int(text) for text in args.ports.split(","))
        methods = tuple(Method(text.strip()) for text in args.methods.split(","))
    except ValueError as error:
        raise Invalid(f"--ports or --methods: {error}") from error
    now = clock.now()
    return EngagementWanted(
        reason=args.reason, device_ids=device_ids, networks=tuple(args.network), ports=ports, methods=methods,
        not_before=now, not_after=now + timedelta(hours=args.hours), rate=args.rate, burst=args.burst,
        loopback=args.loopback, lockout=args.lockout,
    )  # fmt: skip


def _brief(found: Engagement) -> dict[str, Any]:
    return {
        "id": found.id, "state": str(found.state), "reason": found.reason, "devices": len(found.targets),
        "ports": ",".join(map(str, found.ports)), "methods": ",".join(found.methods),
        "until": clock.iso(found.not_after), "requested_by": found.requested_by, "approved_by": found.approved_by,
    }  # fmt: skip


def _run(rt: Any, args: Any) -> int:
    actor = cliutil.operator()
    with rt.db.read() as connection:
        device = devices.by_name(connection, args.device)
    service.assess(rt, device.id, actor=actor, engagement_id=args.engagement, as_of=args.as_of)
    rt.wake()
    return _show(rt, args)


def _show(rt: Any, args: Any) -> int:
    with rt.db.read() as connection:
        device = devices.by_name(connection, args.device)
        latest = service.latest(connection, device.id)
        rows = [
            {
                "criterion": v.criterion, "result": str(v.result), "reason": v.reason, "basis": str(v.basis),
                "detail": v.detail, "valid_until": clock.iso(v.valid_until) if v.valid_until else None,
            }
            for v, _, _ in service.current(connection, device.id)
        ]  # fmt: skip
    if args.json:
        whole = {
            "device": device.name, "assessment": latest.id, "as_of": latest.as_of, "catalogue": latest.catalogue,
            "merkle_root": latest.merkle_root, "counts": latest.counts, "verdicts": rows,
        }  # fmt: skip
        cliutil.show(whole, as_json=True)
        return cliutil.OK
    print(", ".join(f"{count} {result.replace('_', ' ')}" for result, count in latest.counts.items()))
    cliutil.table([{key: row[key] for key in ("criterion", "result", "reason", "basis", "detail")} for row in rows])
    return cliutil.OK


def _catalogue(args: Any) -> int:
    day = args.as_of or legal_day(clock.now())
    found = catalogue()
    rows = [
        {
            "id": row.id, "scope": row.scope, "title": row.title["en"], "blocking": "yes" if row.blocking else "",
            "in_force": ", ".join(i.id for i in found.in_force(row, day)), "confidence": row.confidence,
            "unverified": ", ".join(row.unverified),
        }
        for row in found.criteria.values()
    ]  # fmt: skip
    if args.json:
        cliutil.show({"hash": found.hash, "as_of": day, "criteria": rows}, as_json=True)
        return cliutil.OK
    print(f"catalogue {found.hash} as of {day}")
    cliutil.table(rows)
    return cliutil.OK


def _declare(rt: Any, args: Any) -> int:
    try:
        document = json.loads(args.file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Invalid(f"{args.file}: {error}", file=str(args.file)) from error
    with rt.db.write() as connection:
        found = declarations.accept(connection, document, actor=cliutil.operator())
    rt.wake()
    cliutil.show({"id": found.id, "digest": found.digest}, as_json=args.json)
    return cliutil.OK
