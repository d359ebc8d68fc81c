"""UUIDv7 identifiers (RFC 9562 5.7): ordered by time, so that they index well and sort as they happened.

Python 3.11 has no ``uuid.uuid7``. Within one process and millisecond a counter in ``rand_a`` keeps the order.
"""

import os
import threading
import time

_lock = threading.Lock()
_last = 0
_count = 0


def new_id() -> str:
    """Give a new UUIDv7 in its usual text form; later ids of one process sort after earlier ones."""
    global _last, _count
    with _lock:
        stamp = time.time_ns() // 1_000_000
        if stamp > _last:
            _last, _count = stamp, 0
        else:
            _count += 1
            if _count > 0xFFF:
                _last, _count = _last + 1, 0
        value = (_last << 80) | (0x7 << 76) | (_count << 64)
    rand = int.from_bytes(os.urandom(8), "big") & ((1 << 62) - 1)
    text = f"{value | (0b10 << 62) | rand:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
