"""Which lines were already delivered: a bounded memory of the senders' own keys.

The key of a line is made in `siem_rules.delivery.Delivery.line_keys`. Limits: the newest `KEYS` keyed lines of a stream are
remembered, and rebuilt from the log after a restart; what is repeated later than that counts again.
"""

import hashlib

KEYS = 100_000


class Seen:
    """The newest keys, as 8-byte hashes in the order they came."""

    def __init__(self, size: int = KEYS) -> None:
        self._size = size
        self._keys: dict[int, None] = {}

    def add(self, key: bytes) -> bool:
        """Remember a key; tell whether it is new."""
        short = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")
        if short in self._keys:
            return False
        self._keys[short] = None
        if len(self._keys) > self._size:
            del self._keys[next(iter(self._keys))]
        return True

    def forget(self, key: bytes) -> None:
        """Undo `add`, for a line that could not be kept."""
        self._keys.pop(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big"), None)
