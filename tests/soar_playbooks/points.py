"""An enforcement point for tests: a file that says who is contained, and a log of every change, as a broker has.

It is idempotent as a real point is: applying the same level again changes nothing and adds no line to the log.
"""

import fcntl
import json
from typing import Any

from lachan import clock
from lachan.enforcement import Evidence, Level, Target
from lachan.runtime import Runtime
from soar_playbooks.errors import PointUnavailable


class FilePoint:
    """See the module's text; ``<data>/point.down`` makes it unavailable."""

    name = "file"

    def __init__(self, rt: Runtime) -> None:
        self.state = rt.settings.data / "point.json"
        self.log = rt.settings.data / "point.log"
        self.down = rt.settings.data / "point.down"

    def plan(self, rt: Runtime, target: Target, level: Level) -> list[str]:
        return [f"write {target.name}: {level}"]

    def apply(self, rt: Runtime, target: Target, level: Level, *, intent: str) -> Evidence:
        return self._write(target, str(level))

    def verify(self, rt: Runtime, target: Target, level: Level) -> Evidence:
        return Evidence(settled=self.read().get(target.device_id) == level, detail={}, observed_at=clock.now())

    def release(self, rt: Runtime, target: Target, *, intent: str) -> Evidence:
        return self._write(target, None)

    def observe(self, rt: Runtime) -> dict[str, Level]:
        return {device: Level(level) for device, level in self.read().items()}

    def read(self) -> dict[str, str]:
        if self.down.exists():
            raise PointUnavailable("the file point is down")
        found: dict[str, str] = json.loads(self.state.read_text()) if self.state.exists() else {}
        return found

    def changes(self, device_id: str) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line.split()[1] for line in lines if line.startswith(device_id)]

    def _write(self, target: Target, level: str | None) -> Evidence:
        with self.log.open("a") as log:  # one change at a time, as a broker has it
            fcntl.flock(log, fcntl.LOCK_EX)
            state: dict[str, Any] = self.read()
            if state.get(target.device_id) != level:
                state[target.device_id] = level
                self.state.write_text(json.dumps({name: value for name, value in state.items() if value is not None}))
                log.write(f"{target.device_id} {level or 'none'}\n")
        return Evidence(settled=True, detail={"file": level or "none"}, observed_at=clock.now())
