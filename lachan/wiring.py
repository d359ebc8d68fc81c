"""The one list of rooms, as strings, and what each brings: tables, handlers, verbs, enforcement points, jobs, signing.

Each room's ``wiring.py`` is plain data and imports nothing heavy, so a process pays only for what it calls: a name like
``"pki.crl:refresh"`` is imported by `resolve` at its first use. The ground never imports a room otherwise.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module, util
from typing import Any

ROOMS = (
    "lachan.ledger", "lachan.signer", "pki", "ota_signing", "siem_rules", "soar_playbooks", "posture", "api",
)  # fmt: skip
GROUND_TABLES = ("lachan.devices", "lachan.work.outbox", "lachan.work.jobs", "lachan.trust", "lachan.identity.models")


@dataclass(frozen=True)
class Wiring:
    """What all rooms bring together.

    Attributes:
        tables: modules whose import declares tables.
        handlers: event name → functions ``(rt, stored)``.
        jobs: job kind → function ``(rt, job)``.
        recurring: name → (seconds, function ``(rt)``).
        verbs: names of `lachan.verbs.Verb` objects.
        enforcement: names of enforcement points (classes or factories).
        signing: request kind → function that runs inside the signer.
        signed: request kind → function ``(conn, subject) -> bool`` that finds what was signed.
        init: functions that ``lachan init`` runs, in order.
    """

    tables: tuple[str, ...] = ()
    handlers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    jobs: dict[str, str] = field(default_factory=dict)
    recurring: dict[str, tuple[float, str]] = field(default_factory=dict)
    verbs: tuple[str, ...] = ()
    enforcement: tuple[str, ...] = ()
    signing: dict[str, str] = field(default_factory=dict)
    signed: dict[str, str] = field(default_factory=dict)
    init: tuple[str, ...] = ()

    def import_tables(self) -> None:
        """Declare every room's tables on `lachan.database.metadata`."""
        for module in self.tables:
            import_module(module)


def _rooms() -> Iterator[Any]:
    for room in ROOMS:
        try:
            found = util.find_spec(f"{room}.wiring")
        except ModuleNotFoundError:
            found = None
        if found:
            yield import_module(f"{room}.wiring")


@cache
def load() -> Wiring:
    """Collect the wiring of all rooms (once per process)."""
    tables: list[str] = list(GROUND_TABLES)
    verbs: list[str] = []
    enforcement: list[str] = []
    init: list[str] = []
    handlers: dict[str, tuple[str, ...]] = {}
    jobs: dict[str, str] = {}
    recurring: dict[str, tuple[float, str]] = {}
    signing: dict[str, str] = {}
    signed: dict[str, str] = {}
    for room in _rooms():
        named = getattr(room, "TABLES", ())
        tables += [named] if isinstance(named, str) else list(named)
        verbs += getattr(room, "VERBS", ())
        enforcement += getattr(room, "ENFORCEMENT", ())
        init += getattr(room, "INIT", ())
        jobs |= getattr(room, "JOBS", {})
        recurring |= getattr(room, "RECURRING", {})
        signing |= getattr(room, "SIGNING", {})
        signed |= getattr(room, "SIGNED", {})
        for event, functions in getattr(room, "HANDLERS", {}).items():
            handlers[event] = handlers.get(event, ()) + tuple(functions)
    return Wiring(
        tables=tuple(tables), handlers=handlers, jobs=jobs, recurring=recurring, verbs=tuple(verbs),
        enforcement=tuple(enforcement), signing=signing, signed=signed, init=tuple(init),
    )  # fmt: skip


@cache
def resolve(name: str) -> Callable[..., Any]:
    """The object that ``"module:attribute"`` names.

    Raises:
        ImportError: the module or the attribute does not exist (a mistake in some ``wiring.py``).
    """
    module, _, attribute = name.partition(":")
    try:
        found: Callable[..., Any] = getattr(import_module(module), attribute)
    except AttributeError as error:
        raise ImportError(f"{module} has no {attribute}, which a wiring.py names") from error
    return found
