"""`Runtime`: what every piece of running code is handed — settings, database, wiring, and the way to the signer."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from lachan import wiring
from lachan.database import Database
from lachan.settings import Settings

if TYPE_CHECKING:
    from lachan.signer.client import SignerClient
    from lachan.work.wake import Waker


class Closable(Protocol):
    """Something that is given back at the end."""

    def close(self) -> None:
        """Give it back."""


K = TypeVar("K", bound=Closable)


@dataclass(frozen=True)
class Runtime:
    """One open installation, shared by the threads of a process.

    Attributes:
        settings: of the installation.
        db: its database.
        wiring: what its rooms bring.
        reached: told each boundary between two steps that must bear a crash; tests end the process there.
    """

    settings: Settings
    db: Database
    wiring: wiring.Wiring
    reached: Callable[[StrEnum], None] = lambda _boundary: None
    _kept: dict[type[Closable], Closable] = field(default_factory=dict, init=False, repr=False, compare=False)
    _keeping: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    @classmethod
    def open(cls, settings: Settings) -> "Runtime":
        """Open an installation that ``lachan init`` made.

        Raises:
            LooseFolder: the data folder is open to others.
        """
        found = wiring.load()
        found.import_tables()
        return cls(
            settings, Database(settings.url, pool_size=settings.database_pool, wait=settings.database_wait), found
        )

    @cached_property
    def signer(self) -> "SignerClient":
        """The way to the signer process; connects when first asked."""
        from lachan.signer.client import SignerClient

        return SignerClient(self.settings.signer_path)

    @cached_property
    def waker(self) -> "Waker":
        """What wakes the other processes; opened when first asked."""
        from lachan.work.wake import open_waker

        url = self.db.url.set(drivername="postgresql").render_as_string(hide_password=False)
        return open_waker(self.settings.data, url if self.db.dialect == "postgresql" else None)

    def wake(self, name: str = "*") -> None:
        """Tell the other processes (``work``, ``door``, ``detect``, or all) that rows are due; call after a commit."""
        self.waker.wake(name)

    def wake_doors(self) -> None:
        """Tell the doors that trust has changed; call after a commit."""
        self.wake("door")

    def wake_workers(self) -> None:
        """Tell the workers that rows are due; call after a commit."""
        self.wake("work")

    def keep(self, kind: type[K], make: Callable[[], K]) -> K:
        """Tell what a room keeps for the life of this process: made at the first call, closed with the runtime.

        Args:
            kind: its class, which is its name here.
            make: makes it; called once, under a lock, and must not ask for anything kept.
        """
        with self._keeping:
            found = self._kept.get(kind)
            if found is None:
                found = self._kept[kind] = make()
        return cast(K, found)

    def dismiss(self, kind: type[Closable]) -> None:
        """Close what is kept under a class, if it is; the next `keep` makes it anew."""
        with self._keeping:
            found = self._kept.pop(kind, None)
        if found is not None:
            found.close()

    def close(self) -> None:
        """Give everything back."""
        for kind in list(self._kept):
            self.dismiss(kind)
        self.db.close()
        if "waker" in self.__dict__:
            self.waker.close()
        if "signer" in self.__dict__:
            self.signer.close()
