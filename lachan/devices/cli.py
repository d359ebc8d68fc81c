"""``lachan device`` and ``lachan trust``."""

import csv
import dataclasses
import io
import json
import sys
from pathlib import Path
from typing import Any

from lachan import cliutil, devices
from lachan import trust as decisions
from lachan.devices import Criticality, Device, NewDevice


def main(argv: list[str]) -> int:
    """``lachan device add|import|list|show|criticality|retire``."""
    parser = cliutil.parser("device", "The registry of devices.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    add = verbs.add_parser("add", help="register one device")
    add.add_argument("name")
    for field in ("vendor", "model", "serial-number", "site"):
        add.add_argument(f"--{field}", required=True)
    for field in ("ward", "place", "owner", "address"):
        add.add_argument(f"--{field}", default=None)
    add.add_argument("--criticality", type=Criticality, choices=list(Criticality), default=Criticality.UNKNOWN)
    load = verbs.add_parser("import", help="register the good rows of a CSV or NDJSON file, give the bad ones back")
    load.add_argument("file", type=Path)
    load.add_argument("--rejected", type=Path, help="write the bad rows there (default: FILE.rejected.csv)")
    listing = verbs.add_parser("list", help="devices by name")
    listing.add_argument("--search", default="", help="in name, serial number, address, ward")
    show = verbs.add_parser("show", help="one device")
    show.add_argument("name")
    level = verbs.add_parser("criticality", help="say how much depends on a device")
    level.add_argument("name")
    level.add_argument("value", type=Criticality, choices=list(Criticality))
    retire = verbs.add_parser("retire", help="end a device's life")
    retire.add_argument("name")
    retire.add_argument("--reason", default="retired by an operator")
    for sub in (add, load, listing, show, level, retire):
        cliutil.common(sub, suppress=True)
    args = parser.parse_args(argv)
    with cliutil.opened(args.data) as rt:
        return _run(rt, args)


def _run(rt: Any, args: Any) -> int:
    actor = cliutil.operator()
    if args.verb == "import":
        return _import(rt, args, actor)
    if args.verb == "list":
        with rt.db.read() as connection:
            filters = {"q": args.search} if args.search else {}
            found = devices.find(connection, principal=actor, limit=10_000, filters=filters)
        keys = ("name", "vendor", "model", "site", "criticality", "state", "firmware_version")
        cliutil.show([{key: getattr(d, key) for key in keys} for d in found], as_json=args.json)
        return cliutil.OK
    with rt.db.write() as connection:
        if args.verb == "add":
            fields = {key: getattr(args, key) for key in NewDevice.model_fields if getattr(args, key) is not None}
            new = devices.parse_new(fields)
            device = devices.register(connection, new, actor=actor, criticality=args.criticality)
        else:
            device = devices.by_name(connection, args.name)
        if args.verb == "criticality":
            device = devices.set_criticality(connection, device.id, args.value, actor=actor)
        elif args.verb == "retire":
            devices.retire(connection, device.id, args.reason, actor=actor)
            device = devices.get(connection, device.id)
    cliutil.show(as_dict(device), as_json=args.json)
    return cliutil.OK


def _import(rt: Any, args: Any, actor: Any) -> int:
    rows = list(devices.parse_file(args.file))
    with rt.db.write() as connection:
        result = devices.import_rows(connection, rows, actor=actor)
    if result.rejected:
        target = args.rejected or args.file.with_name(args.file.name + ".rejected.csv")
        target.write_text(rejected_csv(result.rejected), "utf-8")
    report = {"accepted": len(result.accepted), "rejected": [dataclasses.asdict(bad) for bad in result.rejected]}
    text = [f"registered {len(result.accepted)}, refused {len(result.rejected)}"]
    text += [f"  row {bad.row}: {bad.reason}" for bad in result.rejected[:20]]
    if result.rejected:
        text.append(f"the refused rows, with reasons: {target}")
    cliutil.show(report, as_json=args.json, text="\n".join(text))
    return cliutil.FAILED if result.rejected else cliutil.OK


def rejected_csv(rejected: tuple[devices.BadRow, ...]) -> str:
    """The refused rows as CSV, each with row number and reason; cells that a spreadsheet would run are made inert."""
    columns = list(dict.fromkeys(key for bad in rejected for key in bad.values))
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["row", "reason", *columns])
    for bad in rejected:
        cells = [str(bad.values.get(key) or "") for key in columns]
        writer.writerow([bad.row, _inert(bad.reason), *map(_inert, cells)])
    return out.getvalue()


def _inert(cell: str) -> str:
    return f"'{cell}" if cell[:1] in {"=", "+", "-", "@", "\t"} else cell


def trust(argv: list[str]) -> int:
    """``lachan trust DEVICE``: the decision and every reason for it."""
    parser = cliutil.parser("trust", "The decision for a device, with its reasons.")
    parser.add_argument("name")
    args = parser.parse_args(argv)
    with cliutil.opened(args.data) as rt, rt.db.read() as connection:
        device = devices.by_name(connection, args.name)
        decision = decisions.decision(connection, device.id)
    reasons = [{"source": s.source, "answer": s.answer, "reason": s.reason, "detail": s.detail, "ref": s.ref}
               for s in decision.reasons]  # fmt: skip
    if args.json:
        print(json.dumps({"device": device.name, "answer": decision.answer, "reasons": reasons}))
    else:
        print(f"{device.name}: {decision.answer}")
        cliutil.table(reasons) if reasons else print("nothing speaks against it", file=sys.stdout)
    return cliutil.OK


def as_dict(device: Device) -> dict[str, Any]:
    """A device as JSON-able fields."""
    return dataclasses.asdict(device)
