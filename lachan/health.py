"""Health asks whether things move, not whether processes stand: what each room checks, looked at together.

A room's wiring names its checks (`lachan.wiring.Room.health`); each gives the problems that there are now, with what to do. A
check that cannot tell, because the database or the signer does not answer, is *unknown*, which is never shown as good. A
problem is *grave* when nothing can be written or served: then ``/readyz`` says 503. Whether something moves is asked twice over: by the
age of what waits, and by how long this process has seen the same mark stand still (`Still`), which no wrong clock hides.

Steps of `LastLook.now`: what was found in the last `FRESH` seconds is given again; otherwise one look begins, in a thread of its
own, and whoever asks waits for it as long as he likes, then is given the last answer: a flood of questions costs one look.
Limits: this process sees the disk of its own data folder; PostgreSQL's disk is known only by its errors.
"""

import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic
from typing import TYPE_CHECKING

import sqlalchemy as sa

from lachan import clock
from lachan.database import metadata
from lachan.errors import LachanError
from lachan.log import get as get_logger
from lachan.wiring import resolve

if TYPE_CHECKING:
    from lachan.runtime import Runtime

Check = Callable[["Runtime"], Iterable["Standstill"]]
FRESH = 2.0  # seconds that an answer is given again
PATIENCE = 5.0  # seconds that a caller waits for a look; a check may hang as what it asks does
STANDS = 60.0  # seconds after which what waits and does not move is a problem
NO_ROOM = 1 << 20  # bytes; below, nothing can be written
LITTLE_SHARE, LITTLE = 0.05, 10 << 30  # of the disk, and bytes at most, below which room is made in good time
AHEAD = 60.0  # seconds that a fact may lie in the future
log = get_logger(__name__)


class HealthState(StrEnum):
    """What a check found."""

    OK = "ok"
    WRONG = "wrong"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Standstill:
    """Something that does not move.

    Attributes:
        what: a sentence.
        next: what to do, a sentence.
        grave: nothing can be written or served until it is mended.
    """

    what: str
    next: str
    grave: bool = False


@dataclass(frozen=True)
class Checked:
    """A check by its name, and what it found."""

    name: str
    problems: tuple[Standstill, ...] = ()
    unknown: str = ""

    @property
    def state(self) -> HealthState:
        """Whether it is in order; a problem that was seen counts, whatever else could not be."""
        if self.problems:
            return HealthState.WRONG
        return HealthState.UNKNOWN if self.unknown else HealthState.OK

    @property
    def grave(self) -> bool:
        """Whether one of its problems is."""
        return any(problem.grave for problem in self.problems)


class Still:
    """How long this process has seen marks unchanged, by the monotonic clock."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[object, float]] = {}

    def since(self, name: str, mark: object) -> float:
        """Give the seconds for which this name has had this mark; 0 for a new mark, and for None, which is nothing that waits."""
        now = monotonic()
        before = self._seen.get(name)
        if mark is None or before is None or before[0] != mark:
            self._seen[name] = (mark, now)
            return 0.0
        return now - before[1]

    def close(self) -> None:
        """Forget them."""
        self._seen.clear()


class LastLook:
    """The last look of this process (`Runtime.keep`), and the one that is under way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: tuple[Checked, ...] = ()
        self._until = 0.0
        self._looking: threading.Event | None = None

    def now(self, rt: "Runtime", *, patience: float) -> tuple[Checked, ...]:
        """Give what the checks found at most `FRESH` seconds ago; after ``patience`` seconds, what was found before."""
        with self._lock:
            if self._found and monotonic() < self._until:
                return self._found
            if (looking := self._looking) is None:
                looking = self._looking = threading.Event()
                threading.Thread(target=self._look, args=(rt, looking), name="health", daemon=True).start()
        looking.wait(patience)
        return self._found or (Checked("health", unknown="The checks have not ended yet."),)

    def _look(self, rt: "Runtime", looking: threading.Event) -> None:
        try:
            found = tuple(look(rt))
            with self._lock:
                self._found, self._until = found, monotonic() + FRESH
        finally:
            with self._lock:
                self._looking = None
            looking.set()

    def close(self) -> None:
        """Forget what was found."""
        self._found = ()


def now(rt: "Runtime", *, patience: float = PATIENCE) -> tuple[Checked, ...]:
    """Give what the checks of an installation found, as fresh as `LastLook.now` says."""
    return rt.keep(LastLook, LastLook).now(rt, patience=patience)


def look(rt: "Runtime") -> Iterator[Checked]:
    """Run every check."""
    rooms: dict[str, Check] = {name: resolve(where) for name, where in rt.wiring.health.items()}
    for name, check in {**_GROUND, **rooms}.items():
        try:
            yield Checked(name, tuple(check(rt)))
        except (LachanError, sa.exc.SQLAlchemyError, OSError) as error:
            yield Checked(name, unknown=getattr(error, "detail", "") or type(error).__name__)
        except Exception as error:
            log.exception("a check of the health failed", check=name)
            yield Checked(name, unknown=type(error).__name__)


def still(rt: "Runtime", name: str, mark: object) -> bool:
    """Tell whether what waits has not moved for `STANDS` seconds; see `Still.since`."""
    return rt.keep(Still, Still).since(name, mark) > STANDS


def no_room(error: BaseException | None) -> bool:
    """Tell whether an error, or what caused it, says that a disk or a quota is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return True
        error = error.__cause__ or error.__context__
    return False


def database(rt: "Runtime") -> Iterable[Standstill]:
    """See whether the database answers; a write is not tried, and one that failed before says nothing of the next."""
    advice = "Start the database, or look at its log; what waits is done when it answers."
    try:
        with rt.db.read() as connection:
            connection.execute(sa.text("SELECT 1"))
    except (LachanError, sa.exc.SQLAlchemyError):
        return [Standstill(what="The database does not answer.", next=advice, grave=True)]
    return []


def disk(rt: "Runtime") -> Iterable[Standstill]:
    """See whether there is room in the data folder: for segments, blobs, and on SQLite the database."""
    found = os.statvfs(rt.settings.data)
    free, size = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    advice = "Make room on the disk of the data folder, or give it a larger one; writes then go on by themselves."
    if free < NO_ROOM or found.f_favail == 0 < found.f_files:
        return [Standstill(what="The disk of the data folder is full.", next=advice, grave=True)]
    if free < min(LITTLE_SHARE * size, LITTLE):
        return [Standstill(what=f"The disk of the data folder has {free >> 20} MiB left.", next=advice)]
    return []


def time_of_day(rt: "Runtime") -> Iterable[Standstill]:
    """See whether the clock is where it was when the newest fact was recorded, and where PostgreSQL's is."""
    events = metadata.tables["events"]
    with rt.db.read() as connection:
        newest = connection.execute(sa.select(events.c.recorded_at).order_by(events.c.seq.desc()).limit(1)).scalar()
        theirs = (
            connection.execute(sa.text("SELECT clock_timestamp()")).scalar() if rt.db.dialect == "postgresql" else None
        )
    found = []
    advice = "See that NTP runs on every machine of lachan; nothing is lost, but times of facts are wrong meanwhile."
    if newest is not None and (ahead := (newest - clock.now()).total_seconds()) > AHEAD:
        found.append(
            Standstill(what=f"The newest fact lies {ahead:.0f} s in the future: the clock was put back.", next=advice)
        )
    if theirs is not None and abs(apart := (theirs - clock.now()).total_seconds()) > AHEAD:
        found.append(Standstill(what=f"The database's clock is {apart:+.0f} s from this machine's.", next=advice))
    return found


_GROUND: dict[str, Check] = {"database": database, "disk": disk, "clock": time_of_day}
