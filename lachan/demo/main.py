"""``lachan demo``: the loop, told with real processes and through the public doors only.

Each step prints its time and the ledger event that proves it; a step that fails is named and the command ends with 1.
``--json`` ends with one document, ``--keep`` leaves the city running and its folder in place.
"""

import json
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lachan import cliutil
from lachan.demo import broker
from lachan.demo.city import City
from lachan.demo.story import STEPS, SUCCESS_RULES, Story
from lachan.demo.words import WORDS
from lachan.errors import LachanError


@dataclass(frozen=True)
class Told:
    """A step as the document shows it: ``ms`` it took, ``event`` (id) that proves it."""

    name: str
    ok: bool
    ms: int
    event: str | None
    detail: str


def main(argv: list[str]) -> int:
    """``lachan demo [--lang vi|en] [--json] [--keep]``; exit code 0 when every step held."""
    parser = cliutil.parser("demo", "Walk the whole loop on this machine: SQLite, loopback, no root.")
    parser.add_argument("--lang", choices=sorted(WORDS), default="en", help="the language of the story")
    parser.add_argument("--keep", action="store_true", help="leave lachan running and print the console's address")
    parser.add_argument("--break-step", choices=[name for name, _ in STEPS], help=argparse_suppress())
    args = parser.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="lachan-demo-"))
    off = {"LACHAN_SIEM_RULES_OFF": json.dumps(SUCCESS_RULES)} if args.break_step == "alert" else {}
    city = City(folder, settings=off)
    try:
        return _tell(city, args)
    finally:
        city.close()
        if not args.keep:
            shutil.rmtree(folder, ignore_errors=True)


def argparse_suppress() -> str:
    """Keep an option out of ``--help``: it is there for the test that breaks each step in turn."""
    import argparse

    return argparse.SUPPRESS


def _tell(city: City, args: Any) -> int:
    words = WORDS[args.lang]

    def say(text: str) -> None:
        if not args.json:
            print(text, flush=True)

    say(f"{words['intro']}\n{words['recording']}")
    story = Story(city, broken=args.break_step, broker=broker.beside(city))
    say(words["broker" if story.broker else "no_broker"] + "\n")
    began = time.monotonic()
    told = _walk(story, lambda step: say(_line(step, words)))
    ok = len(told) == len(STEPS) and all(step.ok for step in told)
    document = {
        "ok": ok,
        "steps": [asdict(step) for step in told],
        "missing": [name for name, _ in STEPS[len(told) :]],
        "failed": next((step.name for step in told if not step.ok), None),
        "event_to_alert_ms": story.event_to_alert_ms,
        "event_to_refused_ms": story.event_to_refused_ms,
        "ledger_verified": story.ledger_verified,
        "tamper_detected": story.tamper_detected,
        "seconds": round(time.monotonic() - began, 1),
        "console": city.urls.get("people"),
        "broker": story.broker is not None,
    }
    if args.json:
        print(json.dumps(document), flush=True)
    else:
        _summary(document, words, story)
    if args.keep and ok:
        _keep(story, say, words)
    return cliutil.OK if ok else cliutil.FAILED


def _walk(story: Story, show: Callable[[Told], None]) -> list[Told]:
    """Take the steps one after another, up to the first that fails."""
    told: list[Told] = []
    for name, step in STEPS:
        started, proof, ok = time.monotonic(), None, True
        try:
            proof, detail = step(story)
        except LachanError as error:
            detail, ok = error.detail, False
        told.append(Told(name, ok, round((time.monotonic() - started) * 1000), proof, detail))
        show(told[-1])
        if not ok:
            break
    return told


def _line(step: Told, words: dict[str, str]) -> str:
    mark = "✓" if step.ok else "✕"
    proof = f"  [{step.event}]" if step.event else ""
    return f"{mark} {step.ms:>6} ms  {words[step.name]}{proof}\n             {cliutil.safe(step.detail)}"


def _summary(document: dict[str, Any], words: dict[str, str], story: Story) -> None:
    if not document["ok"]:
        print(
            f"\n✕ {words['failed']}: {document['failed']}; {words['missing']}: {', '.join(document['missing']) or '–'}"
        )
        return
    print(
        f"\n{words['total']}: {document['seconds']} s; {words['event_to_alert']}: {story.event_to_alert_ms} ms; "
        f"{words['event_to_refused']}: {story.event_to_refused_ms} ms"
    )
    print(f"{words['console']}: {document['console']}")


def _keep(story: Story, say: Any, words: dict[str, str]) -> None:
    link = story.city.lachan("user", "link", "an")["link"]
    say(f"{link}\n{words['kept']}: {story.city.folder}")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
