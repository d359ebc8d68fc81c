"""Something is away: said once when it begins and once when it is over, however many threads and tries meet it."""

import threading
import time

from lachan.log import get as get_logger

log = get_logger(__name__)


class Outage:
    """One thing that may fail for a while; threads may tell of it at once.

    Args:
        what: the sentence that the log shows, for example "the database cannot be read".
        quiet: seconds without a failure after which the next success ends it: what fails now and then is one outage.
    """

    def __init__(self, what: str, *, quiet: float = 0) -> None:
        self._what, self._quiet = what, quiet
        self._lock = threading.Lock()
        self._since = self._last = 0.0
        self.lasts = False

    def failed(self, error: BaseException | str) -> None:
        """Tell of a failure; the first of an outage is logged."""
        with self._lock:
            self._last = time.monotonic()
            if self.lasts:
                return
            self.lasts, self._since = True, self._last
        log.warning(self._what, error=str(error))

    def worked(self) -> None:
        """Tell of a success; costs nothing while there is no outage."""
        if not self.lasts:
            return
        with self._lock:
            now = time.monotonic()
            if not self.lasts or now - self._last < self._quiet:
                return
            self.lasts = False
        log.warning("an outage is over", outage=self._what, seconds=round(now - self._since, 1))
