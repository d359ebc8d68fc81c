"""A process that imports a file and kills itself at its n-th step; the steps are counted by code, not listed by hand.

Arguments: data folder, database URL ("" for SQLite), file, way (``command`` applies the chunks itself, ``work`` has a worker
do it), number of the step (0: none). A step is the border before or after everything that leaves something behind: a blob
written or removed, a transaction begun, its work done, committed. Prints how many steps there were.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from lachan.blobs import FolderStore
from lachan.database import Database
from lachan.devices import importing
from lachan.devices.importing import applying
from lachan.identity import system
from lachan.runtime import Runtime
from lachan.settings import Settings
from lachan.work.worker import Worker

R = TypeVar("R")
CHUNK = 4  # rows
steps = [0]


def step() -> None:
    """Count a border, and die at the wanted one."""
    steps[0] += 1
    if steps[0] == int(sys.argv[5]):
        os.kill(os.getpid(), signal.SIGKILL)


def around(owner: type, name: str) -> None:
    """Put a border before and after a method."""
    real = getattr(owner, name)

    def wrapped(self: Any, *words: Any, **more: Any) -> Any:
        step()
        try:
            return real(self, *words, **more)
        finally:
            step()

    setattr(owner, name, wrapped)


def inside_units() -> None:
    """Put a border behind a unit's own work, before its commit."""
    real = Database.run

    def run(self: Database, unit: Callable[[Any], R], **more: Any) -> R:
        def with_border(connection: Any) -> R:
            found = unit(connection)
            step()
            return found

        return real(self, with_border, **more)

    Database.run = run  # type: ignore[method-assign]


def main() -> None:
    """Import."""
    data, url, file, way = sys.argv[1:5]
    applying.CHUNK = CHUNK
    rt = Runtime.open(Settings.load(Path(data), database_url=url, people_port=0, device_port=0, status_port=0))
    inside_units()
    for owner, name in ((Database, "run"), (Database, "write"), (FolderStore, "put"), (FolderStore, "delete")):
        around(owner, name)
    with open(file, "rb") as handle:
        found, _ = importing.begin(rt, handle, actor=system("child"), due=way == "work")
    if way == "work":
        Worker(rt).run_due()
    else:
        while found.state is importing.ImportState.APPLYING:
            found = importing.apply(rt, found.id)
    rt.close()
    print(steps[0])


if __name__ == "__main__":
    main()
