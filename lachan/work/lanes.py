"""The role ``work``: threads of its own for each lane, so that none holds another (design decision 17).

The first thread looks, by one statement for all lanes, and wakes a thread of each lane in which something can be claimed. Such
a thread claims a batch (`Rounds.take`), does it, says what became of it, and claims again until there is nothing left.
The *keeper* renews the leases of all that is claimed each second, by one unit; what has lost its lease is somebody else's,
and this process writes nothing about it any more. A job that goes on past the deadline of its kind is abandoned: it counts
as failed, its fence is passed so that its effects are refused, and another thread takes the place of the one that hangs, for
a thread cannot be ended. Limits: an abandoned thread keeps what it holds until it returns or the process ends; `HANGING`
of them end the process, which the supervisor starts again.
"""

import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import sqlalchemy as sa

from lachan.errors import DatabaseAway
from lachan.log import get as get_logger
from lachan.settings import Settings
from lachan.wiring import Lane
from lachan.work import queue
from lachan.work.jobs import LEASE, POLL, Job
from lachan.work.queue import BACK, Settlement
from lachan.work.rounds import Busy, Rounds
from lachan.work.worker import BATCH, PAUSE, SHARE, SLOW, alike, failed, perform, plan

if TYPE_CHECKING:
    from lachan.runtime import Runtime

RENEW = LEASE.total_seconds() / 3
AGAIN = 60.0  # seconds between two plans
BACK_BY = 1.0  # seconds that the wall clock may fall behind before it was put back
HANGING = 32  # abandoned threads at which the process gives itself up
STOP_WITHIN = 5.0  # seconds that jobs under way are given at the end
log = get_logger(__name__)


def work(rt: "Runtime", stop: threading.Event) -> None:
    """Work until ``stop`` is set; sleeps until woken or until the next job falls due.

    Raises:
        SystemExit: too many abandoned jobs hang.
    """
    waiter, crew, planned = rt.waker.waiter("work"), Crew(rt), Planned()
    try:
        while not stop.is_set():
            try:
                if planned.again():
                    plan(rt)
                    planned.done()
                crew.look()
            except DatabaseAway:  # it was said, once
                stop.wait(PAUSE)
            if crew.hanging >= HANGING:
                raise SystemExit(f"{crew.hanging} abandoned jobs hang: the role begins anew")
            waiter.wait(POLL)
    finally:
        crew.stop()
        waiter.close()


class Planned:
    """When recurring work is planned again: at the start, each `AGAIN` seconds, and when this machine's clock went back."""

    def __init__(self) -> None:
        self._until, self._wall = 0.0, 0.0

    def again(self) -> bool:
        """Tell whether it is time."""
        return time.monotonic() >= self._until or time.time() - time.monotonic() < self._wall - BACK_BY

    def done(self) -> None:
        """Note that it was done now."""
        self._until, self._wall = time.monotonic() + AGAIN, time.time() - time.monotonic()


class Claimed:
    """A batch that a thread has claimed, and how far it is; shared with the keeper."""

    def __init__(self, gang: "Gang", batch: Sequence[Job]) -> None:
        self.gang, self.batch = gang, list(batch)
        self.lock = threading.Lock()
        self.held = {job.id: job for job in batch}  # what is leased and not settled
        self._doing: list[Job] = []
        self._until = float("inf")  # monotonic: the deadline of what is being done
        self._abandoned = False

    def begin(self, together: Sequence[Job], deadline: float) -> None:
        """Note what is being done now, and for how many seconds it may."""
        with self.lock:
            self._doing, self._until = list(together), time.monotonic() + deadline

    def ended(self) -> bool:
        """Note that it is done; False if it was abandoned meanwhile."""
        with self.lock:
            self._doing, self._until = [], float("inf")
            return not self._abandoned

    def release(self, jobs: Sequence[Job]) -> None:
        """Note that jobs are settled, or lost."""
        with self.lock:
            for job in jobs:
                self.held.pop(job.id, None)

    def late(self) -> list[Job]:
        """Abandon what has gone on past its deadline, once; give it."""
        with self.lock:
            if self._abandoned or not self._doing or time.monotonic() < self._until:
                return []
            self._abandoned = True
            return list(self._doing)


class Crew:
    """The threads of a process for all lanes.

    Args:
        rt: the open installation.
        threads: of each lane; as the settings say by default.
    """

    def __init__(self, rt: "Runtime", *, threads: dict[Lane, int] | None = None) -> None:
        self.rt = rt
        self.busy = Busy()
        self.hanging = 0  # threads whose job was abandoned
        self._ended = threading.Event()
        self._claims: set[Claimed] = set()
        self._lock = threading.Lock()
        self._gangs = {lane: Gang(self, lane, count) for lane, count in (threads or _threads(rt.settings)).items()}
        self._keeper = threading.Thread(target=self._keep, name="work-leases", daemon=True)
        self._keeper.start()

    def look(self) -> None:
        """Wake a thread of each lane in which something can be claimed.

        Raises:
            DatabaseAway: the database is away, or was busy for too long.
        """
        with self.rt.db.read() as connection:
            found = queue.look(connection)
        if found.lost:
            self.rt.db.run(queue.free, urgent=True)
        for lane, gang in self._gangs.items():
            if lane in found.lanes or found.lost:
                gang.wake()

    def keep(self, claimed: Claimed) -> None:
        """Have the keeper renew a batch's leases."""
        self.busy.add(claimed.gang.lane, claimed.batch)
        with self._lock:
            self._claims.add(claimed)

    def forget(self, claimed: Claimed) -> None:
        """End that."""
        with self._lock:
            known = claimed in self._claims
            self._claims.discard(claimed)
        if known:
            self.busy.remove(claimed.gang.lane, claimed.batch)

    def returned(self) -> None:
        """Note that a thread whose job was abandoned has come back from it."""
        with self._lock:
            self.hanging -= 1

    def stop(self) -> None:
        """Claim nothing more, and wait a little for what is under way; what is left is another's when its leases end."""
        until = time.monotonic() + STOP_WITHIN
        for gang in self._gangs.values():
            gang.stop()
        for gang in self._gangs.values():
            gang.join(until)
        self._ended.set()
        self._keeper.join(STOP_WITHIN)

    def _keep(self) -> None:
        while not self._ended.wait(RENEW):
            try:
                with self._lock:
                    claims = list(self._claims)
                for claimed in claims:
                    if late := claimed.late():
                        self._abandon(claimed, late)
                self._renew(claims)
            except DatabaseAway:  # it was said, once; leases end, and what was done is settled or done again
                continue
            except Exception as error:  # noqa: BLE001 - whatever it is, leases are renewed again in a second
                log.error("leases could not be renewed", error=str(error))

    def _renew(self, claims: Sequence[Claimed]) -> None:
        mine: dict[str, tuple[Claimed, Job]] = {}
        for claimed in claims:
            with claimed.lock:
                mine |= {job.id: (claimed, job) for job in claimed.held.values()}
        if not mine:
            return
        jobs = [job for _, job in mine.values()]
        for job in self.rt.db.run(lambda connection: queue.renew(connection, jobs), urgent=True):
            mine[job.id][0].release([job])  # settled meanwhile, or another's

    def _abandon(self, claimed: Claimed, late: list[Job]) -> None:
        for job in late:
            log.error("a job went on past its deadline and is abandoned", kind=job.kind, job=job.id)
        why = f"It went on past its deadline of {self.rt.wiring.work(late[0].kind).deadline:g} s."
        with claimed.lock:
            rest = [job for job in claimed.held.values() if job not in late]
            late = [job for job in late if job.id in claimed.held]
        settled: list[Settlement] = [(job, failed(job, why)) for job in late]
        settled += [(job, BACK) for job in rest]
        claimed.release([*late, *rest])
        self.forget(claimed)
        with self._lock:
            self.hanging += 1
        claimed.gang.replace()
        self.rt.db.run(partial(_settle, settled), urgent=True)


class Gang:
    """The threads of one lane."""

    def __init__(self, crew: Crew, lane: Lane, count: int) -> None:
        self._crew, self.lane = crew, lane
        self._turns = Rounds(lane, crew.rt.wiring, crew.busy, threads=count)
        self._turn = threading.Lock()  # `Rounds` is for one thread at a time
        self._bell = threading.Condition()
        self._rung = self._stopped = False
        self._threads: list[threading.Thread] = []
        for _ in range(count):
            self.replace()

    def wake(self) -> None:
        """Have one idle thread look for work."""
        with self._bell:
            self._rung = True
            self._bell.notify()

    def replace(self) -> None:
        """Start a thread: the first ones, and one for each that hangs."""
        name = f"work-{self.lane}-{len(self._threads)}"
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def stop(self) -> None:
        """Have each thread end when it has done what it does."""
        with self._bell:
            self._stopped = True
            self._bell.notify_all()

    def join(self, until: float) -> None:
        """Wait for the threads until then."""
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _run(self) -> None:
        while self._rings():
            try:
                claimed = self._claim()
                while claimed is not None:
                    if not self._work(claimed):
                        self._crew.returned()
                        return  # another thread has this one's place
                    claimed = self._claim() if self._waits() else None
            except DatabaseAway:  # it was said, once
                time.sleep(PAUSE)
            except Exception as error:  # noqa: BLE001 - no failure of the queue ends a lane
                log.error("a lane could not go on", lane=str(self.lane), error=str(error))
                time.sleep(PAUSE)

    def _rings(self) -> bool:
        with self._bell:
            while not self._rung and not self._stopped:
                self._bell.wait()
            self._rung = False
            return not self._stopped

    def _waits(self) -> bool:
        """Look before another claim: it keeps off SQLite's one write lock."""
        if self._stopped:
            return False
        with self._crew.rt.db.read() as connection:
            return self.lane in queue.look(connection).lanes

    def _claim(self) -> Claimed | None:
        most = BATCH[self.lane]
        with self._turn:
            batch = self._crew.rt.db.run(partial(self._turns.take, most=most), urgent=True)
            if not batch:
                return None
            claimed = Claimed(self, batch)
            self._crew.keep(claimed)
        if len(batch) == most:
            self.wake()  # there may be more, for another thread
        return claimed

    def _work(self, claimed: Claimed) -> bool:
        """Do a batch; tell whether this thread still has its place."""
        rt, begun, settled, left, done = self._crew.rt, time.monotonic(), list[Settlement](), claimed.batch, 0
        try:
            while left and (not done or (time.monotonic() - begun < SHARE and not self._stopped)):
                at = time.monotonic()
                together = alike(rt, left)
                left = [job for job in left if job not in together]
                claimed.begin(together, rt.wiring.work(together[0].kind).deadline)
                found = perform(rt, together)
                if not claimed.ended():
                    return False
                settled, done = settled + found, done + len(together)
                if time.monotonic() - at > SLOW:
                    self._settle(claimed, settled)
                    settled = []
            self._settle(claimed, settled + [(job, BACK) for job in left])
        finally:
            self._crew.forget(claimed)
        return True

    def _settle(self, claimed: Claimed, settled: Sequence[Settlement]) -> None:
        """Write what became of jobs, but for those whose lease was lost: they are another's."""
        with claimed.lock:
            mine = [one for one in settled if one[0].id in claimed.held]
        if mine:
            self._crew.rt.db.run(partial(_settle, mine))
        claimed.release([job for job, _ in settled])


def _settle(settled: Sequence[Settlement], connection: sa.Connection) -> None:
    for job in queue.settle(connection, settled):
        log.info("a job was taken over before it was done", kind=job.kind, job=job.id)


def _threads(settings: Settings) -> dict[Lane, int]:
    return {
        Lane.URGENT: settings.work_urgent, Lane.ORDINARY: settings.work_ordinary, Lane.SLOW: settings.work_slow,
    }  # fmt: skip
