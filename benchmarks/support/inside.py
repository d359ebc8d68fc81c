"""A worker held in this process, to see what a run itself costs; a program of its own, run by the checkout's interpreter.

It works off what is due in the data folder of ``LACHAN_DATA`` while the served worker stands still, and prints one JSON
line: what one run costs itself (CPU seconds), the jobs by kind, and all of the process's CPU seconds, claiming included.
This is the one module of the benchmark that knows lachan from inside, by the few names below.
"""

import json
import sys
import time
from collections import defaultdict
from importlib import import_module
from typing import Any

WORKERS = ("lachan.work.worker", "lachan.jobs")  # where `Worker` and `run(rt, jobs)` stand; the latter at 990b298
OWN = ("triggers:on_alert_raised", "soar.alert", "soar.run", "executor:")  # from the fact to the containment


def main() -> int:
    """Work off what is due; the argument is the most jobs a look takes."""
    module = _first(WORKERS)
    runtime = import_module("lachan.runtime").Runtime
    settings = import_module("lachan.settings").Settings
    count: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    real = module.run

    def timed(rt: Any, given: Any) -> Any:
        together = given if isinstance(given, list) else [given]  # jobs of one kind; at 990b298 one job
        began = time.process_time()
        try:
            return real(rt, given)
        finally:
            count[together[0].kind] += len(together)
            seconds[together[0].kind] += time.process_time() - began

    module.run = timed
    rt = runtime.open(settings.load())
    worker = module.Worker(rt)
    worker.run_due(limit=10)  # the first ones pay for imports and for compiled statements
    count.clear()
    seconds.clear()
    began = time.process_time()
    while worker.run_due(limit=int(sys.argv[1])):
        pass
    total = time.process_time() - began
    rt.close()
    own = sum(seconds[kind] / count[kind] for kind in count if any(word in kind for word in OWN))  # of one run
    kinds = {kind: [count[kind], round(seconds[kind], 4)] for kind in count}
    print(json.dumps({"own": own, "total": total, "kinds": kinds}))
    return 0


def _first(names: tuple[str, ...]) -> Any:
    for name in names:
        try:
            return import_module(name)
        except ModuleNotFoundError:
            continue
    raise ModuleNotFoundError(f"none of {', '.join(names)} is there: this module has to learn the new name")


if __name__ == "__main__":
    sys.exit(main())
