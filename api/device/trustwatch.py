"""What the device door knows of trust, kept fresh by a thread.

Steps: load all that stands, once, beside everything else → every 50 ms, or at once when woken, ask whether anything was
committed (`lachan.stillness`), and if so, or four times a second anyway, look for changes (`lachan.trust_view`) and tell the door whom they were about, so that it closes what must be closed → when the anchors may be
others, and every ten seconds anyway, read them again. A view that was pruned past, or whose wall clock was put back, is
replaced by one that is loaded beside it; meanwhile it goes on being brought up to date, and so goes on refusing. It fails
closed: nobody is let in by a view that nobody confirmed for 5 seconds, by one that was pruned past, or before the first.

Limits: the clock of "confirmed" is monotonic, so that a moved wall clock neither keeps nor kills a view.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import sqlalchemy as sa

from api import metrics
from api.device import anchors
from api.device.certificates import Anchor
from api.device.errors import TrustUnknown
from lachan import trust
from lachan.errors import DatabaseAway
from lachan.runtime import Runtime
from lachan.stillness import Stillness
from lachan.trust import Horizon
from lachan.trust_view import Changes, View
from pki import authorities

POLL = 0.05
FULL = 0.25  # seconds between two looks at the rows and at the clock although nothing was committed
ANCHORS = 10.0  # seconds after which the anchors are read again although nobody said that they changed
PAUSE = 0.5  # seconds between two tries when one failed
STALE = 5.0
FIRST = 60.0  # seconds that a starting door waits for its first view before it answers 503
_log = logging.getLogger("lachan.api.device")


@dataclass(frozen=True)
class Belief:
    """What the door goes by.

    Attributes:
        view: Devices and certificates that are not plainly allowed; follows what changes.
        anchors: Authorities that the door believes; another tuple when they changed.
    """

    view: View
    anchors: tuple[Anchor, ...]


@dataclass(frozen=True)
class News:
    """What a look brought.

    Attributes:
        known: What the door goes by now.
        changes: Whom it was about; None is everybody, since all was loaded anew.
        position: What the door has seen whole with this; None when more of the same look follows.
    """

    known: Belief
    changes: Changes | None
    position: Horizon | None


class TrustWatch:
    """Keep what the door knows.

    Args:
        rt: The open installation.
        on_news: Called in the watch's thread for every slice of changes, once it is in place.
    """

    def __init__(self, rt: Runtime, *, on_news: Callable[[News], None]) -> None:
        self._rt, self._on_news = rt, on_news
        self._known: Belief | None = None
        self._confirmed, self._anchors_due = float("-inf"), float("inf")
        self._eye: sa.Connection | None = None
        self._still: Stillness | None = None
        self._mark: object = None
        self._full = float("-inf")
        self._fresh: tuple[View, Iterator[None]] | None = None  # what is being loaded
        self._tried = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trust-watch", daemon=True)

    def start(self) -> None:
        """Start the thread, and wait for the first view or for a first failure, which is logged and tried again."""
        self._thread.start()
        self._tried.wait(FIRST)

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def current(self) -> Belief:
        """Give what the door goes by.

        Raises:
            TrustUnknown: If there is nothing yet, it was not confirmed for `STALE` seconds, or it was pruned past.
        """
        known = self._known
        if known is None or known.view.behind or time.monotonic() - self._confirmed > STALE:
            raise TrustUnknown(f"No view of trust younger than {STALE:.0f} seconds.", reason="trust-unknown")
        return known

    def _run(self) -> None:
        waiter = self._rt.waker.waiter("door")
        try:
            while not self._stop.is_set():
                self.step()
                waiter.wait(0 if self._fresh else POLL)
        finally:
            waiter.close()
            self._look_away()

    def step(self) -> None:
        """Look once, or read one more page; a failure is logged and waits a little."""
        began = time.monotonic()  # of the moment before the question: the answer cannot be younger
        mark = self._still.mark() if self._still is not None else None
        if self._still is not None and mark == self._mark and began < self._full and self._fresh is None:
            self._confirmed = began
            return
        try:
            with self._rt.db.glancing():
                self._refresh(began, mark)
        except DatabaseAway:  # it was said, once; the view ages and the door closes
            self._failed()
        except Exception:  # noqa: BLE001 - the same for what nobody foresaw
            _log.exception("the view of trust could not be refreshed")
            self._failed()

    def _failed(self) -> None:
        self._fresh = None  # what it has read may lack a page
        self._look_away()
        self._tried.set()
        self._stop.wait(PAUSE)

    def _look_away(self) -> None:
        eye, self._eye, self._still = self._eye, None, None
        self._full = float("-inf")
        if eye is not None:
            with suppress(sa.exc.SQLAlchemyError):  # of a server that is gone, it has nothing left to give back
                eye.close()

    def _refresh(self, began: float, mark: object) -> None:
        eye = self._eye = self._eye or self._rt.db.glances()
        if self._still is None:
            self._still = Stillness(eye)
            mark = self._still.mark()
        self._read_anchors(began)
        known = self._known
        if known is not None:
            known.view.look(eye, self._tell)
        if self._fresh is None and (known is None or known.view.behind or known.view.went_back()):
            fresh = View()
            self._fresh = fresh, fresh.load(eye)
        if self._fresh is not None and next(self._fresh[1], self._fresh) is self._fresh:
            self._swap(eye)
        if self._known is not None and not self._known.view.behind:
            self._confirmed = began
            self._mark, self._full = mark, began + FULL
            self._tried.set()

    def _swap(self, eye: sa.Connection) -> None:
        """Take the loaded view in the old one's place, once it has seen what changed while it was loaded."""
        assert self._fresh is not None
        view, self._fresh = self._fresh[0], None
        view.look(eye)
        self._known = Belief(view, self._known.anchors if self._known else self._anchors())
        metrics.snapshot_version.set(view.version)
        self._on_news(News(self._known, None, view.position))

    def _tell(self, changes: Changes) -> None:
        assert self._known is not None
        if changes.anchors:
            self._known = Belief(self._known.view, self._anchors())
            self._anchors_due = time.monotonic() + authorities.REMEMBER  # they may have been remembered ones
        metrics.snapshot_version.set(self._known.view.version)
        self._on_news(News(self._known, changes, changes.position))

    def _read_anchors(self, began: float) -> None:
        if self._known is not None and began > self._anchors_due:
            found = self._anchors()
            if found != self._known.anchors:
                self._known = Belief(self._known.view, found)

    def _anchors(self) -> tuple[Anchor, ...]:
        self._anchors_due = time.monotonic() + ANCHORS
        found = [Anchor(authority.certificate, None) for authority in authorities.every(self._rt.db)]
        if not found:
            _log.warning("no certification authority yet: the device door lets nobody in")
        with self._rt.db.read() as connection:
            return (*found, *(row.anchor for row in anchors.every(connection)))


def prune(rt: Runtime) -> None:
    """Forget changes that every running door has seen; recurring work."""
    trust.prune(rt.db)
