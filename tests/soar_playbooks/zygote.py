"""Processes that can be killed cheaply: a program that has imported everything and forks one life per order.

``python -m tests.soar_playbooks.zygote`` reads JSON lines: ``{"data", "url", "settings", "points", "fault", "offset",
"lives", "approve"}``. For each it forks ``lives`` children; each opens its own runtime, works until nothing is due, approves what
waits for approval (as two persons) if told so, and goes on until nothing changes. It answers with their exit statuses
(-9: killed). `Zygote` is the test's side of it.
"""

import json
import os
import signal
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any


class Zygote:
    """Starts the program; `live` runs lives and gives their statuses."""

    def __init__(
        self, data: Path, url: str, *, points: str = "tests.soar_playbooks.points:FilePoint", **settings: Any
    ) -> None:
        self.order = {"data": str(data), "url": url, "settings": settings, "points": [points]}
        root = Path(__file__).parents[2]
        command = [sys.executable, "-W", "ignore", "-m", "tests.soar_playbooks.zygote"]
        self.process = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def live(self, *, fault: str = "", offset: float = 0, lives: int = 1, approve: bool = False) -> list[int]:
        assert self.process.stdin and self.process.stdout
        order = {**self.order, "fault": fault, "offset": offset, "lives": lives, "approve": approve}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        statuses: list[int] = json.loads(self.process.stdout.readline())
        return statuses

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait(timeout=10)
        self.process.stdout.close()


def life(order: dict[str, Any]) -> None:
    """One process's life: work, approve, work, until nothing is left that is due now."""
    from lachan import clock
    from lachan.runtime import Runtime
    from lachan.settings import Settings
    from lachan.work.worker import Worker

    clock._offset = timedelta(seconds=order["offset"])
    rt = Runtime.open(Settings.load(order["data"], database_url=order["url"], **order["settings"]))
    rt = replace(rt, wiring=replace(rt.wiring, enforcement=tuple(order["points"])), reached=death(order["fault"]))
    worker = Worker(rt)
    while worker.run_due() or (order["approve"] and approve_one(rt)):
        pass
    rt.close()


def death(fault: str) -> Callable[[str], None]:
    """End this process with SIGKILL when it gets to a boundary for the n-th time (``boundary:n``)."""
    wanted, _, count = fault.partition(":")
    passed: Counter[str] = Counter()

    def reached(boundary: str) -> None:
        passed[boundary] += 1
        if boundary == wanted and passed[boundary] == int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)

    return reached


def approve_one(rt: Any) -> bool:
    """Approve one waiting plan as one person, the way the door does; tell whether there was one."""
    import sqlalchemy as sa

    from soar_playbooks import service
    from soar_playbooks.models import runs
    from tests.soar_playbooks.support import AN

    waiting = sa.and_(runs.c.state == "waiting", runs.c.guard == "propose")
    with rt.db.read() as connection:
        run_id = connection.execute(sa.select(runs.c.id).where(waiting)).scalar()
    if run_id is None:
        return False
    service.approve_run(rt, AN, run_id=run_id)
    return True


def main() -> None:
    import tests.soar_playbooks.support  # noqa: F401  imports the rest, before the first fork

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the lives print is not an answer
    for line in sys.stdin:
        order = json.loads(line)
        children = []
        for _ in range(order["lives"]):
            child = os.fork()
            if child == 0:
                try:
                    life(order)
                    os._exit(0)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
            children.append(child)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        answers.write(json.dumps(statuses) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
