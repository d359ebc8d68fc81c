"""Which lines were already delivered: a bounded memory of the senders' own keys, each sender's apart.

The key of a line is made in `siem_rules.delivery.line_key`. Only the detector asks: it sees the streams of all doors. A key is
kept as 8 bytes of a hash whose own key is drawn anew by each process, so that nobody can look for two that meet; and it is
compared with those of the same sender only. Limits: `KEYS` keys of all senders together; when they are full the largest holder
loses its oldest (`siem_rules.holders`). What is repeated later than that counts again.
"""

import secrets
from collections import Counter, deque
from hashlib import blake2b

from siem_rules.delivery import Sender
from siem_rules.holders import Holders, Holding

KEYS = 200_000
UNCOUNTED = 64


class Seen:
    """The newest keys of each sender, in the order they came.

    Args:
        size: how many of all senders together; at most `UNCOUNTED` more for a moment.

    Attributes:
        forgotten: label of a sender → how many of its keys were forgotten for want of room.
    """

    def __init__(self, size: int = KEYS) -> None:
        self._size, self._secret = size, secrets.token_bytes(16)
        self._keys: dict[str, tuple[set[bytes], deque[bytes]]] = {}
        self._held = Holders(floor=0)
        self._last: tuple[Sender, set[bytes], deque[bytes]] | None = None  # lines come in runs of one sender
        self._uncounted = 0  # keys of that one which `Holders` has not been told of
        self.forgotten: Counter[str] = Counter()

    def add(self, sender: Sender, key: str) -> bool:
        """Remember a sender's key; tell whether it is new."""
        if self._last is None or self._last[0] is not sender:
            self._settle()
            self._last = (sender, *self._keys.setdefault(sender.label, (set(), deque())))
        _, known, order = self._last
        short = self._short(key)
        if short in known:
            return False
        known.add(short)
        order.append(short)
        self._uncounted += 1
        if self._uncounted >= UNCOUNTED:
            self._settle()
        return True

    def forget(self, sender: Sender, key: str) -> None:
        """Undo the last `add`, for a line that could not be kept."""
        self._settle()
        short = self._short(key)
        known, order = self._keys.get(sender.label, (set(), deque()))
        if short in known and order[-1] == short:
            order.pop()
            self._drop(Holding(sender.account, sender.label, None), short)

    def _settle(self) -> None:
        """Count the keys of the present run, and make room where it is short."""
        if self._last is None:
            return
        sender, count = self._last[0], self._uncounted
        self._last, self._uncounted = None, 0
        if not count:
            if not self._keys[sender.label][0]:
                del self._keys[sender.label]
            return
        self._held.add(Holding(sender.account, sender.label, None), count)
        while self._held.total > self._size and (path := self._held.largest()) is not None:
            self._drop(path, self._keys[path.sender][1].popleft())
            self.forgotten[path.sender] += 1

    def _drop(self, path: Holding, short: bytes) -> None:
        known, _ = self._keys[path.sender]
        known.remove(short)
        if not known:
            del self._keys[path.sender]
        self._held.remove(path)

    def _short(self, key: str) -> bytes:
        return blake2b(self._secret + key.encode("utf-8", "replace"), digest_size=8).digest()
