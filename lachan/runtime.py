"""`Runtime`: what every piece of running code is handed — settings, database, wiring, and the way to the signer."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from lachan import wiring
from lachan.database import Database
from lachan.settings import Settings
from lachan.work import wake

if TYPE_CHECKING:
    from lachan.signer.client import SignerClient


@dataclass(frozen=True)
class Runtime:
    """One open installation, shared by the threads of a process."""

    settings: Settings
    db: Database
    wiring: wiring.Wiring

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

    def wake(self) -> None:
        """Tell the other processes that rows are due; call after a commit that made some."""
        wake.notify(self.settings.data)

    def close(self) -> None:
        """Give everything back."""
        self.db.close()
        if "signer" in self.__dict__:
            self.signer.close()
