"""What the device door knows of trust, kept fresh by a thread.

Steps: ask the version row every 50 ms (or at once when woken) → when it changed, and once a second anyway because
signals begin and end with time, load the snapshot and the anchors → tell the door, which closes what must be closed.
`TrustWatch.current` fails closed: a view that nobody confirmed for 5 seconds is no view.

Limits: the clock of "confirmed" is monotonic, so that a moved wall clock neither keeps nor kills a view.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa
from cryptography import x509

from api import metrics
from api.device.certificates import Anchor
from api.device.errors import TrustUnknown
from api.models import door_anchors
from lachan import trust
from lachan.errors import DatabaseAway
from lachan.runtime import Runtime
from pki import authorities

POLL = 0.05
RELOAD = 1.0
PAUSE = 0.5  # seconds between two tries when one failed
STALE = 5.0
_log = logging.getLogger("lachan.api.device")


@dataclass(frozen=True)
class View:
    """One consistent state of knowledge.

    Attributes:
        snapshot: Decisions and refused certificates.
        anchors: Authorities that the door believes.
    """

    snapshot: trust.Snapshot
    anchors: tuple[Anchor, ...]


class TrustWatch:
    """Keep the door's `View`.

    Args:
        rt: The open installation.
        on_change: Called in the watch's thread with every newly loaded view.
    """

    def __init__(self, rt: Runtime, *, on_change: Callable[[View], None]) -> None:
        self._rt, self._on_change = rt, on_change
        self._view: View | None = None
        self._confirmed = self._loaded = float("-inf")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trust-watch", daemon=True)

    def start(self) -> None:
        """Load a first view (a failure is logged and tried again), then keep it fresh."""
        self._step()
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def current(self) -> View:
        """Give the present view.

        Raises:
            TrustUnknown: If there is none, or it was not confirmed for `STALE` seconds.
        """
        view = self._view
        if view is None or time.monotonic() - self._confirmed > STALE:
            raise TrustUnknown(f"No trust snapshot younger than {STALE:.0f} seconds.", reason="trust-unknown")
        return view

    def _run(self) -> None:
        waiter = self._rt.waker.waiter("door")
        try:
            while not self._stop.is_set():
                waiter.wait(POLL)
                self._step()
        finally:
            waiter.close()

    def _step(self) -> None:
        try:
            self._refresh()
        except DatabaseAway:  # it was said, once; the view ages and the door closes
            self._stop.wait(PAUSE)
        except Exception:  # noqa: BLE001 - the same for what nobody foresaw
            _log.exception("trust snapshot could not be refreshed")
            self._stop.wait(PAUSE)

    def _refresh(self) -> None:
        began = time.monotonic()
        view = self._view
        with self._rt.db.read() as connection:
            same = view is not None and trust.version(connection) == view.snapshot.version
        if view is None or not same or began - self._loaded > RELOAD:
            anchors = _anchors(self._rt)
            with self._rt.db.read() as connection:
                view = View(trust.snapshot(connection), anchors)
        if view is not self._view:
            self._view, self._loaded = view, began
            metrics.snapshot_version.set(view.snapshot.version)
            self._confirmed = began
            self._on_change(view)
        self._confirmed = began  # of the moment before the question: the answer cannot be younger


def _anchors(rt: Runtime) -> tuple[Anchor, ...]:
    found = [Anchor(authority.certificate, None) for authority in authorities.every(rt.db)]
    if not found:
        _log.warning("no certification authority yet: the device door lets nobody in")
    with rt.db.read() as connection:
        rows = connection.execute(sa.select(door_anchors).order_by(door_anchors.c.fingerprint)).all()
    return (*found, *(Anchor(x509.load_der_x509_certificate(row.certificate), row.vendor) for row in rows))
