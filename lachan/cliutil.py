"""What the sub-commands share: ``--data`` and ``--json``, output that is inert, errors that say what to do next.

Exit codes (docs/cli.md has the table): 0 done, 1 refused or failed, 2 the command's words are off, 3 a needed part does
not answer, 4 something was not found, 130 interrupted.
"""

import argparse
import getpass
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lachan.errors import LachanError, NotFound, Unavailable

OK, FAILED, USAGE, UNAVAILABLE, MISSING, INTERRUPTED = 0, 1, 2, 3, 4, 130
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """Give a parser for ``lachan NAME`` that knows ``--data`` and ``--json``."""
    made = argparse.ArgumentParser(prog=f"lachan {name}", description=description)
    common(made)
    return made


def common(made: argparse.ArgumentParser, *, suppress: bool = False) -> None:
    """Add ``--data`` and ``--json``; with ``suppress`` for sub-parsers, so that they may stand at either place."""
    default: Any = argparse.SUPPRESS if suppress else None
    made.add_argument("--data", metavar="DIR", default=default, help="data folder (or LACHAN_DATA)")
    made.add_argument("--json", action="store_true", default=default or False, help="print JSON")


def safe(text: object) -> str:
    """Give a text that an attacker may have written, made inert for a terminal: control and bidi characters are shown."""
    return _UNSAFE.sub(lambda found: f"\\x{ord(found.group()):02x}", str(text))


def show(value: Any, *, as_json: bool, text: str | None = None) -> None:
    """Print a result: as JSON, or as ``text`` (else as ``key: value`` lines or a table)."""
    if as_json:
        print(json.dumps(value, default=str, indent=2))
    elif text is not None:
        print("\n".join(safe(line) for line in text.split("\n")))
    elif isinstance(value, list):
        table(value)
    else:
        for key, item in value.items():
            print(f"{key}: {safe(item)}")


def table(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows of equal keys as aligned columns; a word when there are none."""
    if not rows:
        print("(none)")
        return
    columns = list(rows[0])
    cells = [columns, *([safe("" if row[c] is None else row[c]) for c in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


class Progress:
    """How far long work is, on standard error: one line that changes on a terminal, else a line every few seconds.

    Args:
        name: of the work; begins each line.
        quiet: say nothing.
    """

    def __init__(self, name: str, *, quiet: bool = False) -> None:
        self._name, self._quiet, self._terminal = name, quiet, sys.stderr.isatty()
        self._next = time.monotonic() + 1
        self._open = False

    def step(self, text: str) -> None:
        """Say how far it is, if the last word on it is old enough."""
        now = time.monotonic()
        if self._quiet or now < self._next:
            return
        self._next = now + (0.2 if self._terminal else 5)
        self._open = self._terminal
        sys.stderr.write(f"\r\x1b[K{self._name}: {safe(text)}" if self._terminal else f"{self._name}: {safe(text)}\n")
        sys.stderr.flush()

    def say(self, text: str) -> None:
        """Say something once, on a line of its own."""
        if not self._quiet:
            self.end()
            print(f"{self._name}: {safe(text)}", file=sys.stderr)

    def end(self) -> None:
        """Leave the line that changed."""
        if self._open:
            print(file=sys.stderr)
            self._open = False


def exit_code(error: LachanError) -> int:
    """Give the exit code that an error ends a command with."""
    if isinstance(error, Unavailable):
        return UNAVAILABLE
    return MISSING if isinstance(error, NotFound) else FAILED


def guarded(run: Callable[[], int], *, as_json: bool = False) -> int:
    """Run a command; an error becomes one clear message on standard error and the right exit code."""
    try:
        return run()
    except LachanError as error:
        if as_json:
            problem = {"code": error.code, "detail": error.detail, "hint": error.hint, **error.fields}
            print(json.dumps({"error": problem}, default=str))
        else:
            place = ":".join(str(error.fields[key]) for key in ("file", "line") if key in error.fields)
            lead = f"{safe(place)}: " if place and place not in error.detail else ""
            print(f"lachan: {lead}{safe(error.detail)}", file=sys.stderr)
            if error.hint:
                print(f"  next: {error.hint}", file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return OK


@contextmanager
def opened(data: str | None) -> Iterator[Any]:
    """Give the runtime of a data folder that ``lachan init`` made.

    Raises:
        Invalid: no folder is named.
        Unavailable: it was never initialised.
    """
    from lachan.runtime import Runtime
    from lachan.settings import Settings

    settings = Settings.load(data)
    if not (settings.data / "initialised").exists():
        raise Unavailable(f"{settings.data} is no lachan installation; run: lachan init --data {settings.data}")
    rt = Runtime.open(settings)
    try:
        yield rt
    finally:
        rt.close()


def operator() -> Any:
    """Give the principal of whoever runs commands on this machine: they own the data folder, so they act as administrator.

    Approvals still need a person's session: nobody approves from a shell.
    """
    from lachan.identity import Principal, PrincipalKind, Role

    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = "operator"
    return Principal(kind=PrincipalKind.PERSON, id=f"shell:{name}", name=f"{name}@shell", roles=frozenset({Role.ADMIN}))
