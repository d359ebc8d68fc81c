"""The role ``work``: does due work until it is told to stop."""

import threading
from typing import TYPE_CHECKING

from lachan.errors import DatabaseAway
from lachan.work.jobs import POLL
from lachan.work.worker import PAUSE, Worker, plan

if TYPE_CHECKING:
    from lachan.runtime import Runtime


def work(rt: "Runtime", stop: threading.Event) -> None:
    """Work until ``stop`` is set; sleeps until woken or until the next job falls due."""
    waiter, worker, planned = rt.waker.waiter("work"), Worker(rt), False
    try:
        while not stop.is_set():
            try:
                planned = planned or plan(rt)
                busy = worker.run_due(limit=100)
            except DatabaseAway:  # it was said, once
                busy = 0
                stop.wait(PAUSE)
            if not busy:
                waiter.wait(POLL)
    finally:
        waiter.close()
