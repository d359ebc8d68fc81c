"""What the status door's routes share: the marks, what they keep in memory, and the way to the signer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa

from api.answers import MachineAnswer
from api.memory import Marks
from lachan.runtime import Runtime
from lachan.signer.link import SignerLink
from pki.authorities import Authority, Hierarchy
from pki.errors import AuthorityMissing

R = TypeVar("R")


@dataclass(frozen=True)
class Kept:
    """An answer in memory.

    Attributes:
        answer: as it leaves.
        authority: whose change ends it.
        under: what `Mark` said of that authority when it was made.
        until: when it ends by itself.
    """

    answer: MachineAnswer
    authority: str
    under: int
    until: datetime


class StatusDesk:
    """The shared things, and the ways of `pki.ocsp.Ways` on the loop.

    Attributes:
        rt: the open installation.
        marks: how far the tables have come.
        of_chain: by name: what was made of which hierarchy.
        lists: by authority: its CRL.
        asked: by raw path: answers of OCSP by GET.
    """

    def __init__(self, rt: Runtime) -> None:
        self.rt, self.marks = rt, Marks(rt.db)
        self._link = SignerLink(rt.settings.signer_path)
        self.of_chain: dict[str, tuple[Hierarchy, MachineAnswer]] = {}
        self.lists: dict[str, Kept] = {}
        self.asked: dict[bytes, Kept] = {}

    async def authorities(self) -> tuple[Authority, ...]:
        """Give the issuing authorities; none before `pki.setup` has run."""
        try:
            return (await self.marks.hierarchy()).authorities
        except AuthorityMissing:
            return ()

    async def look(self, read: Callable[[sa.Connection], R]) -> R:
        """Read the database."""
        return await self.marks.look(read)

    async def signed(self, sender: str, **fields: Any) -> dict[str, Any]:
        """Have the signer answer, with others in one frame."""
        return await self._link.request("ocsp", sender=sender, **fields)

    async def close(self) -> None:
        """Hang up on the signer, and look no more."""
        await self._link.close()
        self.marks.close()
