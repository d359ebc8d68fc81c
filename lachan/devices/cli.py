"""``lachan device`` and ``lachan trust``."""

import dataclasses
import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

from lachan import cliutil, devices
from lachan import trust as decisions
from lachan.devices import Criticality, Device, NewDevice, importing

SHOWN = 100  # refused rows that a report names; the file has them all


def main(argv: list[str]) -> int:
    """``lachan device add|import|list|show|criticality|place|retire``."""
    parser = cliutil.parser("device", "The registry of devices.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    add = verbs.add_parser("add", help="register one device")
    add.add_argument("name")
    for field in ("vendor", "model", "serial-number", "site"):
        add.add_argument(f"--{field}", required=True)
    for field in ("ward", "place", "owner", "address"):
        add.add_argument(f"--{field}", default=None)
    add.add_argument("--criticality", type=Criticality, choices=list(Criticality), default=Criticality.UNKNOWN)
    load = verbs.add_parser("import", help="validate a CSV or NDJSON file, register its good rows")
    load.add_argument("file", type=Path)
    load.add_argument("--rejected", type=Path, help="write the bad rows there (default: FILE.rejected.csv)")
    listing = verbs.add_parser("list", help="devices by name")
    listing.add_argument("--search", default="", help="in name, serial number, address, ward")
    show = verbs.add_parser("show", help="one device")
    show.add_argument("name")
    level = verbs.add_parser("criticality", help="say how much depends on a device")
    level.add_argument("name")
    level.add_argument("value", type=Criticality, choices=list(Criticality))
    place = verbs.add_parser("place", help="say where a device is: what collectors report about that address binds it")
    place.add_argument("name")
    place.add_argument("--address", default=None, help="its address; what is registered by default")
    place.add_argument("--site", default=None, help="its site; what is registered by default")
    retire = verbs.add_parser("retire", help="end a device's life")
    retire.add_argument("name")
    retire.add_argument("--reason", default="retired by an operator")
    for sub in (add, load, listing, show, level, place, retire):
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
        elif args.verb == "place":
            device = devices.place(connection, device.id, actor=actor, address=args.address, site=args.site)
        elif args.verb == "retire":
            devices.retire(connection, device.id, args.reason, actor=actor)
            device = devices.get(connection, device.id)
    cliutil.show(as_dict(device), as_json=args.json)
    return cliutil.OK


def _import(rt: Any, args: Any, actor: Any) -> int:
    """Validate the file, apply its chunks here, and tell what became of it; a second call goes on where one ended."""
    told = cliutil.Progress("import", quiet=args.json)
    try:
        file = args.file.open("rb")
    except OSError as error:
        raise importing.BadFile(f"{args.file.name}: {error.strerror}.") from error
    kind = True if args.file.suffix in {".ndjson", ".jsonl", ".json"} else None
    with file:
        found, new = importing.begin(
            rt, file, actor=actor, json_lines=kind, due=False, progress=lambda rows: told.step(f"{rows} rows validated")
        )
    if not new:
        told.say(f"this import was begun before: it goes on at row {found.done} of {found.rows}")
    while found.state is not importing.ImportState.DONE:
        found = importing.apply(rt, found.id)
        told.step(f"{found.done} of {found.rows} rows done")
    told.end()
    target = args.rejected or args.file.with_name(args.file.name + ".rejected.csv")
    if found.rejected:
        with target.open("w", encoding="utf-8", newline="") as out:
            out.writelines(importing.as_csv(importing.rejected(rt, found.id)))
    shown = list(islice(importing.rejected(rt, found.id), SHOWN))
    report = {
        "id": found.id, "rows": found.rows, "accepted": found.accepted, "refused": found.rejected,
        "rejected": [dataclasses.asdict(bad) for bad in shown],
    }  # fmt: skip
    text = [f"registered {found.accepted}, refused {found.rejected}"]
    text += [f"  row {bad.row}: {bad.reason}" for bad in shown[:20]]
    if found.rejected:
        report["file"] = str(target)
        text.append(f"the refused rows, with reasons: {target}")
    cliutil.show(report, as_json=args.json, text="\n".join(text))
    return cliutil.FAILED if found.rejected else cliutil.OK


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
    """Give a device as JSON-able fields."""
    return dataclasses.asdict(device)
