"""How many signatures each device had this hour: a limit that no row of the database can argue away.

The numbers stand in a count-min sketch (Cormode and Muthukrishnan, 2005): a few rows of small counters, each device in one
of each row. So its memory is fixed whatever the number of devices, it never tells too few, and too many only where a device
shares all of its counters with busy ones (with 10^6 devices in an hour, by one signature for about one device in seven, by
four for one in 5 000). At its start the signer counts again what its own log says of the hour. Limits: hours are those of the
clock, so that within any sixty minutes a device can have twice the number.
"""

import hashlib
import struct
import threading
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import lru_cache

from lachan import clock
from lachan.signer.errors import TooManySignatures

ROWS = 4
WIDTH = 1 << 20  # counters of a row, one octet each
FULL = 255
_FOUR = struct.Struct(f">{ROWS}I")


class HourlyCounts:
    """The counts of the present hour.

    Args:
        most: signatures that one device may have in an hour; below `FULL`.
    """

    def __init__(self, most: int = FULL - 1) -> None:
        self.most = min(most, FULL - 1)
        self._hour: datetime | None = None
        self._rows: list[bytearray] = []
        self._lock = threading.Lock()

    def check(self, device_id: str) -> None:
        """Let pass a device that has signatures left; the first refusal of an hour is loud, the others are quiet.

        Raises:
            TooManySignatures: it has had its number; ``retry_after`` in seconds.
        """
        with self._lock:
            now = self._turn()
            count = self._count(device_id)
            if count < self.most:
                return
            if count == self.most:
                self._add(device_id)
        wait = (now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1) - now).total_seconds()
        raise TooManySignatures(
            f"The device has had {self.most} signatures this hour.",
            subject=device_id,
            retry_after=max(1, round(wait)),
            quiet=count > self.most,
        )

    def add(self, device_id: str) -> None:
        """Count a signature."""
        with self._lock:
            self._turn()
            self._add(device_id)

    def restore(self, lines: Iterable[tuple[datetime, str]]) -> None:
        """Count again what the log says of the present hour.

        Args:
            lines: moment and device id of signatures.
        """
        with self._lock:
            hour = self._turn().replace(minute=0, second=0, microsecond=0)
            for moment, device_id in lines:
                if moment >= hour:
                    self._add(device_id)

    def count(self, device_id: str) -> int:
        """Tell how many the device had this hour: at least the true number."""
        with self._lock:
            self._turn()
            return self._count(device_id)

    def _turn(self) -> datetime:
        now = clock.now()
        hour = now.replace(minute=0, second=0, microsecond=0)
        if hour != self._hour:
            self._hour, self._rows = hour, [bytearray(WIDTH) for _ in range(ROWS)]
        return now

    def _count(self, device_id: str) -> int:
        return min(row[cell] for row, cell in zip(self._rows, _cells(device_id), strict=True))

    def _add(self, device_id: str) -> None:
        for row, cell in zip(self._rows, _cells(device_id), strict=True):
            row[cell] = min(FULL, row[cell] + 1)


@lru_cache(maxsize=256)  # asked for the check, and again for the count
def _cells(device_id: str) -> tuple[int, ...]:
    digest = hashlib.blake2b(device_id.encode(), digest_size=4 * ROWS).digest()
    return tuple(cell % WIDTH for cell in _FOUR.unpack(digest))
