"""`Delivery`: one batch of log lines as it was handed in, with who handed it in.

It is the unit that the log keeps: a header line of JSON (who, when, which batch, the senders' ids) and then the lines as
they came. Nothing in it is trusted but the header, which lachan wrote.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from lachan.identity import Principal, PrincipalKind, Role
from lachan.identity.principal import NOBODY

#: Most lines and about most bytes of one record: the detector takes turns by records.
PIECE_LINES = 128
PIECE_BYTES = 128 << 10


@dataclass(frozen=True, slots=True)
class Sender:
    """Who delivered lines, as far as detection needs it.

    Attributes:
        label: the principal's label, as events name it.
        kind: how the principal is known.
        id: id of the principal; of a device, its device id.
        name: the principal's name; of a device, its device name.
        site: a collector's only site; None without one.
        vendor: a device's manufacturer; None of those who are nobody's device.
    """

    label: str
    kind: PrincipalKind
    id: str
    name: str
    site: str | None = None
    vendor: str | None = None

    @property
    def account(self) -> str:
        """Whose share of time and memory is used: a vendor's devices have one together, everybody else one of their own."""
        return self.label if self.vendor is None else f"vendor:{self.vendor}"

    @classmethod
    def of(cls, principal: Principal) -> "Sender":
        """Give the sender that a principal is. Only a collector's site counts: others speak of no devices but themselves."""
        collector = principal.kind is PrincipalKind.COLLECTOR or Role.COLLECTOR in principal.roles
        site = principal.site if collector else None
        return cls(principal.label, principal.kind, principal.id, principal.name, site, principal.vendor)


UNAUTHENTICATED = Sender.of(NOBODY)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One stored batch.

    Attributes:
        sender: who delivered it.
        received: when, UTC.
        batch: the sender's key of the batch (``Idempotency-Key``); empty without one.
        ids: per line its key (`line_key`), or None.
        lines: the lines, as bytes of one JSON document each.
    """

    sender: Sender
    received: datetime
    batch: str
    ids: tuple[str | None, ...]
    lines: tuple[bytes, ...]

    def pack(self) -> bytes:
        """Give the bytes that the log keeps."""
        sender = self.sender
        header = {
            "who": [sender.label, sender.kind, sender.id, sender.name, sender.site, sender.vendor],
            "at": self.received.timestamp(), "batch": self.batch, "ids": self.ids,
        }  # fmt: skip
        return orjson.dumps(header) + b"\n" + b"\n".join(self.lines)

    @classmethod
    def unpack(cls, payload: bytes) -> "Delivery":
        """Give the batch that `pack` wrote."""
        head, *lines = payload.split(b"\n")
        header = orjson.loads(head)
        return cls(
            _sender(header["who"]),
            datetime.fromtimestamp(header["at"], UTC), header["batch"], tuple(header["ids"]), tuple(lines),
        )  # fmt: skip

    def pieces(self) -> "Iterator[Delivery]":
        """Give the same lines in deliveries of at most `PIECE_LINES` lines and about `PIECE_BYTES`: one is one turn's work."""
        begin = size = 0
        for place, line in enumerate(self.lines):
            if place > begin and (place - begin == PIECE_LINES or size + len(line) > PIECE_BYTES):
                yield self._part(begin, place)
                begin, size = place, 0
            size += len(line)
        if self.lines:
            yield self._part(begin, len(self.lines))

    def _part(self, begin: int, end: int) -> "Delivery":
        return Delivery(self.sender, self.received, self.batch, self.ids[begin:end], self.lines[begin:end])


def sender_of(payload: bytes) -> Sender:
    """Give who delivered a packed batch, without reading the rest of it."""
    end = payload.find(b'],"at":')  # inside a JSON string the quotation marks would be escaped
    if not payload.startswith(b'{"who":[') or end < 0:
        return Delivery.unpack(payload).sender
    return _sender(orjson.loads(payload[len(b'{"who":') : end + 1]))


def _sender(who: list[Any]) -> Sender:
    label, kind, identity, name, site, *vendor = who  # records of older versions name no vendor
    return Sender(label, PrincipalKind(kind), identity, name, site, vendor[0] if vendor else None)


def line_key(identity: str | None, batch: str, place: int) -> str | None:
    """Give the key of one line: the sender's ``_id``, or its batch key and the place in the batch, or None."""
    if identity is not None:
        return f"i:{identity}"
    return f"b:{place}:{batch}" if batch else None
