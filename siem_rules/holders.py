"""Who holds how much of a memory that all share: vendor first, then sender, then what of the sender's it is.

There is no quota for anybody. What is full takes from the largest holder: of the *accounts* (a vendor's devices together, a
collector by itself) the one that holds most, in it the sender that holds most, of the sender's the *leaf* that holds most. Each
leaf keeps `floor` whatever happens: only what is above it counts and can be taken.

Every change by one costs the same, however many hold something and how much: `Ranking` keeps the largest at hand.
"""

from collections.abc import Hashable
from typing import Any, Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)


class Ranking(Generic[K]):
    """Counts, and always one that is largest."""

    def __init__(self) -> None:
        self._counts: dict[K, int] = {}
        self._rows: dict[int, dict[K, None]] = {}
        self._top = 0

    def __len__(self) -> int:
        """How many have a count above zero."""
        return len(self._counts)

    def of(self, key: K) -> int:
        """Give the count of one."""
        return self._counts.get(key, 0)

    def change(self, key: K, by: int) -> None:
        """Count so many more, or one less (``by`` -1)."""
        before = self._counts.get(key, 0)
        after = before + by
        if before:
            row = self._rows[before]
            del row[key]
            if not row:
                del self._rows[before]
        if after:
            self._counts[key] = after
            self._rows.setdefault(after, {})[key] = None
        else:
            self._counts.pop(key, None)
        if after > self._top or (before == self._top and before not in self._rows):
            self._top = after  # by one less: this one is among the largest still

    def top(self) -> K | None:
        """Give one whose count is largest; None when nobody has any."""
        return next(iter(self._rows[self._top])) if self._top else None


class Holding(NamedTuple):
    """Where something is held."""

    account: str
    sender: str
    leaf: Any


class Holders:
    """Counts by account, sender and leaf.

    Args:
        floor: how much of each leaf nobody can take.
    """

    def __init__(self, floor: int) -> None:
        self._floor = floor
        self._leaves: dict[Holding, int] = {}
        self._accounts = Ranking[str]()
        self._senders: dict[str, Ranking[str]] = {}
        self._of_sender: dict[tuple[str, str], Ranking[Any]] = {}
        self.total = 0

    def add(self, path: Holding, by: int = 1) -> None:
        """Count so many more."""
        self.total += by
        held = self._leaves[path] = self._leaves.get(path, 0) + by
        if held > self._floor:
            self._count(path, min(by, held - self._floor))

    def remove(self, path: Holding) -> None:
        """Count one less."""
        self.total -= 1
        held = self._leaves[path] - 1
        if held:
            self._leaves[path] = held
        else:
            del self._leaves[path]
        if held >= self._floor:
            self._count(path, -1)

    def account(self, account: str) -> int:
        """Tell how much of an account's can be taken."""
        return self._accounts.of(account)

    def excess(self, account: str, sender: str) -> int:
        """Tell how much of a sender's can be taken."""
        return self._senders[account].of(sender) if account in self._senders else 0

    def largest(self) -> Holding | None:
        """Tell from where to take; None when all that is held is below the floor."""
        account = self._accounts.top()
        if account is None:
            return None
        sender = self._senders[account].top()
        assert sender is not None
        return Holding(account, sender, self._of_sender[account, sender].top())

    def _count(self, path: Holding, by: int) -> None:
        account, sender, leaf = path
        self._accounts.change(account, by)
        senders = self._senders.setdefault(account, Ranking())
        senders.change(sender, by)
        leaves = self._of_sender.setdefault((account, sender), Ranking())
        leaves.change(leaf, by)
        if not leaves:
            del self._of_sender[account, sender]
        if not senders:
            del self._senders[account]
