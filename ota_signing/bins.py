"""Hashed bins: which file of the update framework lists a target, so that a device fetches kilobytes, not the city.

The role ``releases`` lists nothing itself; it delegates to ``2**bits`` bins (TUF's succinct roles, TAP 15): the first bits of
the SHA-256 of a target's path say which. `SLOTS` is the finest division that there will be; a slot is what the database
counts changes of, and a bin is one slot or a run of them. There are few bins while there are few releases, and more when
they fill: names and versions stay, since clients refuse a snapshot that lacks a file they knew. The number never shrinks.

Limits: past ``FULL * SLOTS`` releases bins grow, and with them what a device fetches.
"""

import hashlib

import sqlalchemy as sa

from lachan.database import insert_ignore
from ota_signing.models import slots

MIN_BITS, MAX_BITS = 5, 8  # names have two hex digits for all of them, so that a name is never another bin's
SLOTS = 1 << MAX_BITS
FULL = 128  # releases in a bin, on average, before there are twice as many bins: snapshot and bin weigh about the same
PREFIX = "releases"


def slot(target_path: str) -> int:
    """Tell the slot of a target's path (0 to `SLOTS` - 1)."""
    return hashlib.sha256(target_path.encode()).digest()[0]


def bits_for(count: int) -> int:
    """Tell how many bits so many releases need."""
    return next((bits for bits in range(MIN_BITS, MAX_BITS) if count <= FULL * (1 << bits)), MAX_BITS)


def names(bits: int) -> list[str]:
    """Name all bins, in order."""
    return [f"{PREFIX}-{number:02x}" for number in range(1 << bits)]


def name_of(number: int, bits: int) -> str:
    """Name the bin that a slot falls into."""
    return f"{PREFIX}-{number >> (MAX_BITS - bits):02x}"


def slots_of(name: str, bits: int) -> range:
    """Tell the slots that a bin covers; none if there is no such bin."""
    number, width = int(name.removeprefix(f"{PREFIX}-"), 16), 1 << (MAX_BITS - bits)
    return range(number * width, min((number + 1) * width, SLOTS))


def touch(connection: sa.Connection, number: int) -> None:
    """Have the bin of a slot made again, in the transaction that changes what it lists."""
    insert_ignore(connection, slots, {"slot": number, "revision": 0, "published": 0}, index=("slot",))
    connection.execute(slots.update().where(slots.c.slot == number).values(revision=slots.c.revision + 1))


def revisions(connection: sa.Connection) -> list[int]:
    """Tell how often each slot changed so far."""
    found = [0] * SLOTS
    for number, revision in connection.execute(sa.select(slots.c.slot, slots.c.revision)):
        found[number] = revision
    return found


def waiting(connection: sa.Connection) -> list[int]:
    """Name the slots whose last change is not public yet."""
    query = sa.select(slots.c.slot).where(slots.c.revision != slots.c.published).order_by(slots.c.slot)
    return list(connection.execute(query).scalars())
