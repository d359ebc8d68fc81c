"""The one list of rooms, and what each brings: tables, handlers, verbs, enforcement points, jobs, signing, settings.

Each room's ``wiring.py`` holds one typed value, ``WIRING = Room(…)``, and imports nothing heavy, so a process pays only for
what it calls: a name like ``"pki.crl:refresh"`` is imported by `resolve` at its first use. The ground never imports a room
otherwise. `load` refuses a room without that value and a name that two rooms bring; `check` resolves every name, and
``lachan serve`` calls it before any role starts, so that a misspelt one stops the start and not a camera's containment.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

ROOMS = (
    "lachan.devices", "lachan.ledger", "lachan.signer", "pki", "ota_signing", "siem_rules", "soar_playbooks", "posture", "api",
)  # fmt: skip
GROUND_TABLES = (
    "lachan.devices.models",
    "lachan.work.outbox",
    "lachan.work.jobs",
    "lachan.trust",
    "lachan.identity.models",
)


class WiringFault(Exception):
    """A room's wiring does not hold; lachan does not start. The text names the room and the name."""


@dataclass(frozen=True)
class Signing:
    """One kind of request that the signer answers.

    Attributes:
        handler: function ``(context, fields)`` that runs inside the signer.
        rate: signatures per second; the setting ``signer_rates`` may say otherwise.
        recorded: function ``(connection, subject) -> bool`` that finds what was signed; none where no row tells.
        close: function ``(rt, connection, line) -> bool`` that makes what was signed and not recorded worthless, in a unit of
            work, and tells whether it did; ``line`` as `lachan.signer.siglog` keeps it.
    """

    handler: str
    rate: float
    recorded: str | None = None
    close: str | None = None


@dataclass(frozen=True, kw_only=True)
class Room:
    """What one room brings; the names are ``"module:attribute"``.

    Attributes:
        tables: the module whose import declares the room's tables.
        settings: the room's part of the settings (`lachan.settings.RoomSettings`).
        handlers: event name → functions ``(rt, stored)``.
        jobs: job kind → function ``(rt, job)``.
        recurring: name → (seconds, function ``(rt)``).
        verbs: names of `lachan.verbs.Verb` objects.
        enforcement: names of enforcement points (classes or factories).
        signing: request kind → `Signing`.
        init: functions that ``lachan init`` runs, in order.
        health: functions ``(rt) -> list[str]`` that tell what is wrong now, a sentence each.
    """

    tables: str | None = None
    settings: str | None = None
    handlers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    jobs: Mapping[str, str] = field(default_factory=dict)
    recurring: Mapping[str, tuple[float, str]] = field(default_factory=dict)
    verbs: tuple[str, ...] = ()
    enforcement: tuple[str, ...] = ()
    signing: Mapping[str, Signing] = field(default_factory=dict)
    init: tuple[str, ...] = ()
    health: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wiring:
    """What all rooms bring together; the attributes are those of `Room`, and ``tables`` begins with the ground's."""

    tables: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    handlers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    jobs: dict[str, str] = field(default_factory=dict)
    recurring: dict[str, tuple[float, str]] = field(default_factory=dict)
    verbs: tuple[str, ...] = ()
    enforcement: tuple[str, ...] = ()
    signing: dict[str, Signing] = field(default_factory=dict)
    init: tuple[str, ...] = ()
    health: tuple[str, ...] = ()

    def import_tables(self) -> None:
        """Declare every room's tables on `lachan.database.metadata`."""
        for module in self.tables:
            import_module(module)

    def names(self) -> Iterable[str]:
        """Every ``"module:attribute"`` that some room brings."""
        yield from self.settings
        for functions in self.handlers.values():
            yield from functions
        yield from self.jobs.values()
        yield from (function for _, function in self.recurring.values())
        yield from (*self.verbs, *self.enforcement, *self.init, *self.health)
        for signing in self.signing.values():
            yield from (name for name in (signing.handler, signing.recorded, signing.close) if name)


@cache
def load() -> Wiring:
    """Collect the wiring of all rooms (once per process).

    Raises:
        WiringFault: a room has no wiring, or two bring the same name.
    """
    return collect({room: _room(room) for room in ROOMS})


def collect(rooms: Mapping[str, Room]) -> Wiring:
    """Put the rooms' wirings together.

    Raises:
        WiringFault: two rooms bring the same job, recurring work, request, verb, point or settings.
    """
    handlers: dict[str, tuple[str, ...]] = {}
    for name, room in rooms.items():
        for event, functions in room.handlers.items():
            handlers[event] = _unique(handlers.get(event, ()), functions, f"{name}: handlers of {event}")
    return Wiring(
        tables=_tuple(rooms, "tables", GROUND_TABLES),
        settings=_tuple(rooms, "settings"),
        handlers=handlers,
        jobs=_merged(rooms, "jobs"),
        recurring=_merged(rooms, "recurring"),
        verbs=_tuple(rooms, "verbs"),
        enforcement=_tuple(rooms, "enforcement"),
        signing=_merged(rooms, "signing"),
        init=_tuple(rooms, "init"),
        health=_tuple(rooms, "health"),
    )


def check(found: Wiring) -> None:
    """Resolve every name, and see that each handler's fact is in the vocabulary.

    Raises:
        WiringFault: one cannot be resolved; it is named.
    """
    from lachan.events import Event

    unknown = sorted(set(found.handlers) - set(Event.KINDS))
    if unknown:
        raise WiringFault(f"handlers wait for facts that nobody tells: {', '.join(unknown)}")
    found.import_tables()
    for name in found.names():
        try:
            resolve(name)
        except ImportError as error:
            raise WiringFault(f"{name}, which a wiring.py names, is not there: {error}") from error


@cache
def resolve(name: str) -> Callable[..., Any]:
    """Give the object that ``"module:attribute"`` names.

    Raises:
        ImportError: the module or the attribute does not exist (a mistake in some ``wiring.py``).
    """
    module, _, attribute = name.partition(":")
    try:
        found: Callable[..., Any] = getattr(import_module(module), attribute)
    except AttributeError as error:
        raise ImportError(f"{module} has no {attribute}, which a wiring.py names") from error
    return found


def _room(name: str) -> Room:
    try:
        found = import_module(f"{name}.wiring").WIRING
    except (ModuleNotFoundError, AttributeError) as error:
        raise WiringFault(f"the room {name} has no wiring: {error}") from error
    if not isinstance(found, Room):
        raise WiringFault(f"{name}.wiring.WIRING is a {type(found).__name__}, not a Room")
    return found


def _tuple(rooms: Mapping[str, Room], what: str, begin: tuple[str, ...] = ()) -> tuple[str, ...]:
    for name, room in rooms.items():
        brought = getattr(room, what) or ()
        begin = _unique(begin, (brought,) if isinstance(brought, str) else brought, f"{name}: {what}")
    return begin


def _merged(rooms: Mapping[str, Room], what: str) -> dict[str, Any]:
    together: dict[str, Any] = {}
    for name, room in rooms.items():
        brought = getattr(room, what)
        twice = together.keys() & brought.keys()
        if twice:
            raise WiringFault(f"{name}: {what}: {', '.join(sorted(twice))} is another room's already")
        together |= brought
    return together


def _unique(before: tuple[str, ...], new: tuple[str, ...], where: str) -> tuple[str, ...]:
    together = (*before, *new)
    twice = {name for name in together if together.count(name) > 1}
    if twice:
        raise WiringFault(f"{where}: {', '.join(sorted(twice))} is there twice")
    return together
