"""`Delivery`: one batch of log lines as it was handed in, with who handed it in.

It is the unit that the log keeps: a header line of JSON (who, when, which batch, the senders' ids) and then the lines as
they came. Nothing in it is trusted but the header, which lachan wrote.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

import orjson

from lachan.identity import Principal, PrincipalKind, Role
from lachan.identity.principal import NOBODY


@dataclass(frozen=True, slots=True)
class Sender:
    """Who delivered lines, as far as detection needs it.

    Attributes:
        label: the principal's label, as events name it.
        kind: how the principal is known.
        id: id of the principal; of a device, its device id.
        name: the principal's name; of a device, its device name.
        site: a collector's only site; None without one.
    """

    label: str
    kind: PrincipalKind
    id: str
    name: str
    site: str | None = None

    @classmethod
    def of(cls, principal: Principal) -> "Sender":
        """The sender that a principal is. Only a collector's site counts: others speak of no devices but themselves."""
        collector = principal.kind is PrincipalKind.COLLECTOR or Role.COLLECTOR in principal.roles
        return cls(principal.label, principal.kind, principal.id, principal.name, principal.site if collector else None)


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
            "who": [sender.label, sender.kind, sender.id, sender.name, sender.site],
            "at": self.received.timestamp(), "batch": self.batch, "ids": self.ids,
        }  # fmt: skip
        return orjson.dumps(header) + b"\n" + b"\n".join(self.lines)

    @classmethod
    def unpack(cls, payload: bytes) -> "Delivery":
        """Give the batch that `pack` wrote."""
        head, *lines = payload.split(b"\n")
        header = orjson.loads(head)
        label, kind, identity, name, site = header["who"]
        return cls(
            Sender(label, PrincipalKind(kind), identity, name, site),
            datetime.fromtimestamp(header["at"], UTC), header["batch"], tuple(header["ids"]), tuple(lines),
        )  # fmt: skip

    def line_keys(self) -> list[bytes | None]:
        """Per line what tells a repetition: sender and key; None for a line without one.

        Content is never part of it: two equal lines are two events (design decision 7).
        """
        who = self.sender.label.encode()
        return [None if key is None else who + b"\0" + key.encode() for key in self.ids]


def line_key(identity: str | None, batch: str, place: int) -> str | None:
    """Give the key of one line: the sender's ``_id``, or its batch key and the place in the batch, or None."""
    if identity is not None:
        return f"i:{identity}"
    return f"b:{place}:{batch}" if batch else None
