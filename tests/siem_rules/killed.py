"""A detector that kills itself at a named place: ``python -m tests.siem_rules.killed DATA PLACE``."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from lachan.runtime import Runtime
from lachan.settings import Settings
from siem_rules import alerts, ruleset
from siem_rules.detector import Detector


def die(*_: Any, **__: Any) -> None:
    """As ``kill -9`` does it."""
    os.kill(os.getpid(), signal.SIGKILL)


def main(data: str, url: str, place: str) -> None:
    """Run until the place is reached."""
    rt = Runtime.open(Settings.load(Path(data), database_url=url))
    if place == "rebuilding":
        line = Detector._line

        def reading(self: Detector, *arguments: Any) -> Any:
            line(self, *arguments)
            die()

        Detector._line = reading  # type: ignore[method-assign]
    detector = Detector(rt, ruleset.ours())
    if place == "before the transaction":
        rt.db.run = die  # type: ignore[method-assign, assignment]
    elif place == "between two slices":
        run, slices = rt.db.run, []

        def running(*arguments: Any, **named: Any) -> Any:
            if len(slices) == 2:
                die()
            slices.append(run(*arguments, **named))

        rt.db.run = running  # type: ignore[method-assign, assignment]
    elif place == "inside, alert written":
        record, count = alerts.record, []

        def recording(*arguments: Any) -> str:
            found = record(*arguments)
            count.append(found)
            if len(count) == 3:
                die()
            return found

        alerts.record = recording
    elif place == "committed, not known":
        Runtime.wake = die  # type: ignore[method-assign, assignment]
    while True:
        detector.round()


if __name__ == "__main__":
    main(*sys.argv[1:])
