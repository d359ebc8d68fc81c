"""What the device door's routes share: the marks, and what they keep in memory of firmware."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from api.answers import MachineAnswer
from api.memory import Marks
from lachan.runtime import Runtime
from ota_signing.delivery import Firmware
from pki.authorities import Hierarchy

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """What was made under a mark, at most so many; the oldest goes first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[K, tuple[Hashable, V]] = OrderedDict()

    def get(self, key: K, under: Hashable) -> V | None:
        """Give what was made under this mark; None if it was under another."""
        found = self._kept.get(key)
        return found[1] if found is not None and found[0] == under else None

    def put(self, key: K, under: Hashable, value: V) -> V:
        """Keep it."""
        self._kept.pop(key, None)
        self._kept[key] = (under, value)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return value


class DeviceDesk:
    """The shared things.

    Attributes:
        rt: the open installation.
        marks: how far the tables have come.
        polls: by vendor, model and running version: the answer to a poll.
        firmware: by vendor, model, release id and target path: the file.
        cacerts: by whether it is wrapped: the authorities as EST gives them, and of which hierarchy that was made.
        metadata: by name of a file of the update framework: its answer.
    """

    def __init__(self, rt: Runtime) -> None:
        self.rt, self.marks = rt, Marks(rt.db)
        self.polls: Recent[tuple[str, str, str], MachineAnswer] = Recent(4096)
        self.firmware: Recent[tuple[str, str, str, str], Firmware] = Recent(1024)
        self.cacerts: dict[bool, tuple[Hierarchy, MachineAnswer]] = {}
        self.metadata: Recent[str, MachineAnswer] = Recent(512)

    async def close(self) -> None:
        """Look no more."""
        self.marks.close()
