"""The one list of rooms, and what each brings: tables, handlers, verbs, enforcement points, jobs, signing, settings.

Each room's ``wiring.py`` holds one typed value, ``WIRING = Room(…)``, and imports nothing heavy, so a process pays only for
what it calls: a name like ``"pki.crl:refresh"`` is imported by `resolve` at its first use. The ground never imports a room
otherwise. `load` refuses a room without that value, a name that two rooms bring and due work without a lane; `check`
resolves every name, and ``lachan serve`` calls it before any role starts, so that a misspelt one stops the start and not a
camera's containment.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from functools import cache, cached_property
from importlib import import_module
from typing import Any, TypeVar

U = TypeVar("U", bound="str | Work")
ROOMS = (
    "lachan.work", "lachan.devices", "lachan.ledger", "lachan.signer", "pki", "ota_signing", "siem_rules", "soar_playbooks", "posture", "api",
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


class Lane(StrEnum):
    """Where due work waits; each has workers of its own, so that none holds another (design decision 17)."""

    URGENT = "urgent"  # what may lead to containment, runs, enforcement, release, the end of a containment
    ORDINARY = "ordinary"  # facts' handlers, sealing, revocation lists, timers
    SLOW = "slow"  # what waits for others or for much: webhooks, HTTP steps, imports, update metadata, assessments


class Rank(IntEnum):
    """Who goes first inside a lane: all of `FIRST` before any of `TURN`."""

    FIRST = 0  # human acts, enforcement, release, the end of a containment
    TURN = 1  # the rest: senders take turns


@dataclass(frozen=True)
class Work:
    """What one kind of due work calls, and how it may use a worker.

    Attributes:
        function: ``"module:attribute"``.
        lane: where it waits.
        deadline: seconds after which one that goes on is given up: its effects are refused, another worker takes its place.
        rank: of a job that is not told otherwise (`lachan.work.jobs.enqueue`).
        serial: at most one job of a sender is at work at a time (in one process): who does not answer holds one worker.
        most: jobs of this kind that may be at work at a time (in one process); None means no limit but the lane's workers.
    """

    function: str
    lane: Lane = field(kw_only=True)
    deadline: float = field(kw_only=True)
    rank: Rank = field(default=Rank.TURN, kw_only=True)
    serial: bool = field(default=False, kw_only=True)
    most: int | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Begin:
    """Due work that a fact is, without a handler between: a job that carries the fact.

    Its payload is ``{"event": id, "fact": fields with device_id}``, its key begins with ``<kind>:<device's id>:``.

    Attributes:
        kind: of a job of the room.
        only: fields that must say something (be true), or nothing begins.
        unless: fields that must say nothing.
    """

    kind: str
    only: tuple[str, ...] = field(default=(), kw_only=True)
    unless: tuple[str, ...] = field(default=(), kw_only=True)

    def wants(self, event: object) -> bool:
        """Tell whether a fact begins it."""
        return all(getattr(event, name) for name in self.only) and not any(getattr(event, name) for name in self.unless)


@dataclass(frozen=True)
class Every:
    """Recurring work.

    Attributes:
        seconds: from the end of one turn to the next; also the longest that any clock may put it off.
        function: ``"module:attribute"``.
        lane: where it waits.
        deadline: as of `Work`.
    """

    seconds: float
    function: str
    lane: Lane = field(kw_only=True)
    deadline: float = field(kw_only=True)


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
        handlers: event name → `Work` with functions ``(rt, stored)``.
        begins: event name → jobs that are due in the transaction that records the fact, and carry it.
        jobs: job kind → `Work` with a function ``(rt, job)``.
        recurring: name → `Every` with a function ``(rt)``.
        verbs: names of `lachan.verbs.Verb` objects.
        enforcement: names of enforcement points (classes or factories).
        signing: request kind → `Signing`.
        init: functions that ``lachan init`` runs, in order.
        health: name → function ``(rt)`` that gives the problems of the room now (`lachan.health.Standstill`).
        described: functions ``(rt)`` that give (what, sentence) of what an operator should know and nothing is wrong with.
    """

    tables: str | None = None
    settings: str | None = None
    handlers: Mapping[str, tuple[Work, ...]] = field(default_factory=dict)
    begins: Mapping[str, tuple[Begin, ...]] = field(default_factory=dict)
    jobs: Mapping[str, Work] = field(default_factory=dict)
    recurring: Mapping[str, Every] = field(default_factory=dict)
    verbs: tuple[str, ...] = ()
    enforcement: tuple[str, ...] = ()
    signing: Mapping[str, Signing] = field(default_factory=dict)
    init: tuple[str, ...] = ()
    health: Mapping[str, str] = field(default_factory=dict)
    described: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wiring:
    """What all rooms bring together; the attributes are those of `Room`, and ``tables`` begins with the ground's."""

    tables: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    handlers: dict[str, tuple[Work, ...]] = field(default_factory=dict)
    begins: dict[str, tuple[Begin, ...]] = field(default_factory=dict)
    jobs: dict[str, Work] = field(default_factory=dict)
    recurring: dict[str, Every] = field(default_factory=dict)
    verbs: tuple[str, ...] = ()
    enforcement: tuple[str, ...] = ()
    signing: dict[str, Signing] = field(default_factory=dict)
    init: tuple[str, ...] = ()
    health: dict[str, str] = field(default_factory=dict)
    described: tuple[str, ...] = ()

    def import_tables(self) -> None:
        """Declare every room's tables on `lachan.database.metadata`."""
        for module in self.tables:
            import_module(module)

    @cached_property
    def kinds(self) -> dict[str, Work]:
        """Give all due work by the kind of its rows: ``event:<handler>``, ``every:<name>``, and the jobs' own names."""
        events = {f"event:{work.function}": work for works in self.handlers.values() for work in works}
        every = {
            f"every:{name}": Work(each.function, lane=each.lane, deadline=each.deadline)
            for name, each in self.recurring.items()
        }
        return {**events, **every, **self.jobs}

    def work(self, kind: str) -> Work:
        """Give what a kind of due work calls; one that no room brings (of another version) waits in the ordinary lane."""
        return self.kinds.get(kind) or Work(kind, lane=Lane.ORDINARY, deadline=60.0)

    def names(self) -> Iterable[str]:
        """Every ``"module:attribute"`` that some room brings."""
        yield from self.settings
        yield from (work.function for work in self.kinds.values())
        yield from (*self.verbs, *self.enforcement, *self.init, *self.health.values(), *self.described)
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
        WiringFault: two rooms bring the same job, recurring work, request, verb, point or settings, or due work names no
            lane.
    """
    handlers: dict[str, tuple[Work, ...]] = {}
    for name, room in rooms.items():
        _refuse_untyped(name, room)
        for event, functions in room.handlers.items():
            handlers[event] = _unique(handlers.get(event, ()), functions, f"{name}: handlers of {event}")
    return Wiring(
        tables=_tuple(rooms, "tables", GROUND_TABLES),
        settings=_tuple(rooms, "settings"),
        handlers=handlers,
        begins=_begins(rooms),
        jobs=_merged(rooms, "jobs"),
        recurring=_merged(rooms, "recurring"),
        verbs=_tuple(rooms, "verbs"),
        enforcement=_tuple(rooms, "enforcement"),
        signing=_merged(rooms, "signing"),
        init=_tuple(rooms, "init"),
        health=_merged(rooms, "health"),
        described=_tuple(rooms, "described"),
    )


def check(found: Wiring) -> None:
    """Resolve every name, and see that each handler's fact is in the vocabulary.

    Raises:
        WiringFault: one cannot be resolved; it is named.
    """
    from lachan.events import Event

    unknown = sorted({*found.handlers, *found.begins} - set(Event.KINDS))
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


def _begins(rooms: Mapping[str, Room]) -> dict[str, tuple[Begin, ...]]:
    """Collect what begins by facts.

    Raises:
        WiringFault: a room begins a job that it does not bring.
    """
    found: dict[str, tuple[Begin, ...]] = {}
    for name, room in rooms.items():
        for event, begins in room.begins.items():
            for begin in begins:
                if begin.kind not in room.jobs:
                    raise WiringFault(f"{name}: {event} begins {begin.kind}, which is none of its jobs")
            found[event] = (*found.get(event, ()), *begins)
    return found


def _refuse_untyped(name: str, room: Room) -> None:
    """Refuse due work that is a bare name: nobody would know its lane and its deadline.

    Raises:
        WiringFault: some is.
    """
    for work in (*room.jobs.values(), *(each for works in room.handlers.values() for each in works)):
        if not isinstance(work, Work):
            raise WiringFault(
                f"{name}: {work!r} names no lane and no deadline: write Work({work!r}, lane=…, deadline=…)"
            )
    for every in room.recurring.values():
        if not isinstance(every, Every):
            raise WiringFault(f"{name}: {every!r} names no lane and no deadline: write Every(…, lane=…, deadline=…)")


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


def _unique(before: tuple[U, ...], new: tuple[U, ...], where: str) -> tuple[U, ...]:
    together = (*before, *new)
    names = [each.function if isinstance(each, Work) else str(each) for each in together]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise WiringFault(f"{where}: {', '.join(sorted(twice))} is there twice")
    return together
