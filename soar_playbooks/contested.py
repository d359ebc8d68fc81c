"""A person is told when devices are written with an address that others of their site have (`IdentityContested`).

Whose lines such an address then binds is decided by whose word is better (`siem_rules.binding`); why two say the same is for a person
to find out: a mistake in a list, or a manufacturer that wants another's evidence. Limits: one page an hour for each who writes them,
however many addresses he takes; every fact stands in the ledger all the same.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from lachan.events import HumanPaged, IdentityContested
from lachan.identity import system
from soar_playbooks import webhooks

if TYPE_CHECKING:
    from lachan.runtime import Runtime
    from lachan.work.outbox import StoredEvent

EVERY = 3600.0
MOST = 10_000


class PagedLately:
    """Who was told of lately, by this process."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}

    def again(self, actor: str) -> bool:
        """Tell whether an hour is over since the last page about somebody, and begin the next."""
        now = time.monotonic()
        if now < self._at.get(actor, float("-inf")) + EVERY:
            return False
        if len(self._at) >= MOST:
            self._at.clear()
        self._at[actor] = now
        return True

    def close(self) -> None:
        """Forget them."""
        self._at.clear()


def on_contested(rt: Runtime, stored: StoredEvent) -> None:
    """Page a person about the first devices (handler of `IdentityContested`)."""
    fact = stored.event
    if not isinstance(fact, IdentityContested) or not rt.keep(PagedLately, PagedLately).again(stored.actor):
        return
    reason = (
        f"{stored.actor} wrote devices with addresses that other devices of the site have, {fact.address} at {fact.site} first; "
        "an operator must say which of them is there (lachan device place)."
    )
    page = HumanPaged(device_id=fact.device_id, reason=reason[:500])
    rt.db.run(lambda connection: webhooks.tell(rt, connection, page, actor=system("soar")))
