"""What a probe saw: typed, capped and redacted before anybody can store it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, TypedDict

import rfc8785

from lachan import clock, patterns

EXCERPT = 1024  # characters of raw evidence that are kept
_SECRETS = (
    (patterns.compile(r"(?im)^((?:set-)?cookie|(?:proxy-)?authori[sz]ation|authentication-info)\s*:.*$"), r"\1: [redacted]"),
    (patterns.compile(r'(?i)\b(nonce|opaque|cnonce)="[^"]*"'), r'\1="[redacted]"'),
    (patterns.compile(r"(?is)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\z)"), "[redacted key]"),
    (
        patterns.compile(r"(?i)((?:passw(?:or)?d|passwd|passphrase|secret|psk|token|api_?key|community)[\pL\pN_.-]{0,40}"
                   r"[\"']?\s{0,8}[>=:]\s{0,8})(\"[^\"]*\"|'[^']*'|[^\s<&,;]+)"),
        r"\1[redacted]",
    ),
    (patterns.compile(r"(?m)^([a-z_][\pL\pN_-]*):[^:\n]*:(\d+):(\d+):.*$"), r"\1:[redacted]"),  # passwd
    (patterns.compile(r"(?m)^([a-z_][\pL\pN_-]*):[$!*][^:\n]*:.*$"), r"\1:[redacted]"),  # shadow
)  # fmt: skip


class Outcome(StrEnum):
    """How an observation speaks to the criteria that name its probe."""

    CONTRADICTS = "contradicts"
    CONFIRMS = "confirms"
    SILENT = "silent"  # looked, and found nothing against it: no proof of anything
    UNREACHABLE = "unreachable"
    NOT_AUTHORISED = "not_authorised"
    NOT_TRIED = "not_tried"
    ERROR = "error"


class Where(TypedDict, total=False):
    """The arguments of `observe` that several observations of one exchange share."""

    port: int
    address: str
    raw: str | bytes


@dataclass(frozen=True)
class Observation:
    """One thing that one probe saw.

    Attributes:
        probe: name as the catalogue's rows use it.
        outcome: how it speaks.
        code: stable reason code.
        detail: one sentence for people; never a password.
        port: TCP port, 0 when it concerns the whole device.
        address: the address that was connected, empty when none was.
        at: RFC 3339 moment.
        excerpt: redacted piece of what came back, at most `EXCERPT` characters.
        ports: the open ports, for the sweep; empty otherwise.
    """

    probe: str
    outcome: Outcome
    code: str
    detail: str
    port: int
    address: str
    at: str
    excerpt: str = ""
    ports: tuple[int, ...] = ()

    def body(self) -> dict[str, Any]:
        """JSON-able fields."""
        return {**asdict(self), "outcome": str(self.outcome), "ports": list(self.ports)}

    @classmethod
    def load(cls, body: Mapping[str, Any]) -> Observation:
        """Give the observation of a stored body."""
        return cls(**{**body, "outcome": Outcome(body["outcome"]), "ports": tuple(body["ports"])})

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON; verdicts name their evidence by it."""
        return hashlib.sha256(rfc8785.dumps(self.body())).hexdigest()


def observe(
    probe: str, outcome: Outcome, code: str, detail: str, *, port: int = 0, address: str = "", raw: str | bytes = ""
) -> Observation:
    """Make an observation of this moment; ``raw`` is redacted and capped here, so that nobody forgets to."""
    return Observation(probe, outcome, code, detail, port, address, clock.iso(clock.now()), redact(raw))


def redact(raw: str | bytes) -> str:
    """Take secrets, control characters and length out of what a device sent."""
    text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
    text = text[: EXCERPT * 8].replace("\r\n", "\n")
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return "".join(c if c == "\n" or c.isprintable() else "." for c in text)[:EXCERPT]
