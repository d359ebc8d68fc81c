"""UUIDv7 identifiers (RFC 9562 5.7): ordered by time, so that they index well and sort as they happened.

Python 3.11 has no ``uuid.uuid7``. Within one process and millisecond a counter in ``rand_a`` keeps the order.
"""

import os
import threading
import time

_lock = threading.Lock()
_POOL = (
    4096  # octets asked of the kernel at once: each call gives the interpreter's lock away, which costs more than it
)
_random, _used = b"", _POOL
_last = 0
_count = 0


def random_octets(count: int) -> bytes:
    """Random octets of the kernel's, each given once; at most 4096 at a time."""
    with _lock:
        return _octets(count)


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
        rand = int.from_bytes(_octets(8), "big") & ((1 << 62) - 1)
    text = f"{value | (0b10 << 62) | rand:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _octets(count: int) -> bytes:
    global _random, _used
    if _used + count > _POOL:
        _random, _used = os.urandom(_POOL), 0
    _used += count
    return _random[_used - count : _used]


def _forget() -> None:
    """Give a child must not give what its parent gives."""
    global _used
    _used = _POOL


os.register_at_fork(after_in_child=_forget)
