"""The groups that the engine remembers, shared out so that nobody's flood makes it forget another's.

There is no quota. When there are too many groups, the largest holder loses its least recently touched one: of the accounts (a
vendor's devices together, a collector by itself) the one with most, in it the sender with most, of the sender's the device it
spoke of most; `FLOOR` groups of every device that a sender may speak of are left, until `CEILING` groups are all that
memory can bear: from there on the largest account loses those too. When too many matches are remembered, the largest group
of the largest holder loses its older half. Claims and unauthenticated senders have a small pool of their own (`Pool`).

A group is its opener's, until one who holds less adds to it: then it is that one's, so that nobody takes another's half-counted
storm down with its own flood. Limits: what is forgotten is counted per sender in `Pool.forgotten`.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from siem_rules.delivery import Sender
from siem_rules.holders import Holders, Holding
from siem_rules.windows import Group

#: Groups and remembered matches in all, of evidence and of claims.
GROUPS, ENTRIES = 50_000, 300_000
CLAIM_GROUPS, CLAIM_ENTRIES = 5_000, 30_000
#: Groups of an active bound device that nobody takes, and how many there may be of all of those.
FLOOR = 32
CEILING = 4 * GROUPS
#: Matches that a group keeps whatever happens.
LEAST = 16
Key = tuple[str, ...]


class Pool:
    """Some groups with a limit of their own.

    Args:
        groups: how many groups before the largest holder loses some.
        entries: how many matches in them before that.
        floor: groups of each leaf that nobody takes below the ceiling.
        ceiling: how many groups before they are taken all the same.

    Attributes:
        forgotten: (what, label of the sender) → how many groups or matches went for want of room.
    """

    def __init__(self, *, groups: int, entries: int, floor: int, ceiling: int) -> None:
        self._most_groups, self._most_entries, self._ceiling = groups, entries, ceiling
        self._above_floor, self._all, self._entries = Holders(floor), Holders(0), Holders(LEAST)
        self._members: dict[Holding, OrderedDict[Key, None]] = {}
        self._groups: dict[Key, Group[Any]] = {}
        self._homes: dict[Key, Holding] = {}
        self.forgotten: Counter[tuple[str, str]] = Counter()

    @property
    def entries(self) -> int:
        """How many matches are remembered."""
        return self._entries.total

    def __len__(self) -> int:
        """How many groups are remembered."""
        return len(self._groups)

    def get(self, key: Key) -> Group[Any] | None:
        """Find a group."""
        return self._groups.get(key)

    def open(self, key: Key, group: Group[Any], sender: Sender, leaf: str) -> None:
        """Keep a new group.

        Args:
            key: its name.
            group: the group, empty.
            sender: who opens it.
            leaf: the device it is about; empty for claims.
        """
        self._groups[key] = group
        self._settle(key, Holding(sender.account, sender.label, leaf))

    def touch(self, key: Key, sender: Sender) -> None:
        """Somebody adds to a group: it is the most recent of its home, which becomes theirs if they hold less."""
        home = self._homes[key]
        self._members[home].move_to_end(key)
        if home.sender != sender.label and self._lighter(sender, home):
            group = self._groups[key]
            self._leave(key, len(group.entries))
            self._settle(key, Holding(sender.account, sender.label, home.leaf))
            for _ in group.entries:
                self.grew(key, 1)

    def grew(self, key: Key, by: int) -> None:
        """Note that a group remembers one match more (``by`` 1); 0 changes nothing."""
        if by:
            home = self._homes[key]
            self._entries.add(Holding(home.account, home.sender, key))

    def drop(self, key: Key) -> Group[Any]:
        """Forget a group."""
        group = self._groups.pop(key)
        self._leave(key, len(group.entries))
        return group

    def shrink(self, dropped: Callable[[Key], None]) -> None:
        """Make room where it is short; ``dropped`` is told each group that went."""
        while (path := self._crowded()) is not None:
            key = next(iter(self._members[path]))
            self.forgotten["groups", path.sender] += 1
            self.drop(key)
            dropped(key)
        while self._entries.total > self._most_entries and (path := self._entries.largest()) is not None:
            group, key = self._groups[path.leaf], path.leaf
            gone = group.trim(max(LEAST, len(group.entries) // 2))
            self.forgotten["matches", path.sender] += gone
            for _ in range(gone):
                self._entries.remove(path)
            if not gone:
                return

    def items(self) -> Iterable[tuple[Key, Group[Any]]]:
        """All groups with their names."""
        return self._groups.items()

    def idle(self, before: Callable[[Group[Any]], bool]) -> list[Key]:
        """Names of the groups for which ``before`` says that their time is over."""
        return [key for key, group in self._groups.items() if before(group)]

    def _crowded(self) -> Holding | None:
        if self._all.total <= self._most_groups:
            return None
        return self._above_floor.largest() or (self._all.largest() if self._all.total > self._ceiling else None)

    def _lighter(self, sender: Sender, home: Holding) -> bool:
        mine, theirs = (self._all.account(account) for account in (sender.account, home.account))
        if sender.account == home.account:
            mine, theirs = (self._all.excess(home.account, label) for label in (sender.label, home.sender))
        return mine < theirs

    def _settle(self, key: Key, home: Holding) -> None:
        self._homes[key] = home
        self._members.setdefault(home, OrderedDict())[key] = None
        self._above_floor.add(home)
        self._all.add(home)

    def _leave(self, key: Key, entries: int) -> None:
        home = self._homes.pop(key)
        members = self._members[home]
        del members[key]
        if not members:
            del self._members[home]
        self._above_floor.remove(home)
        self._all.remove(home)
        for _ in range(entries):
            self._entries.remove(Holding(home.account, home.sender, key))
