"""Answering OCSP (RFC 6960, RFC 5019): take the request apart, look, have it signed, remember what may be remembered.

Every answer is signed by the delegated responder inside the signer. Answers without a nonce are kept in memory under the
certificate's state version, so a change of state is seen at the next request. The steps are written once, as a coroutine
that is handed `Ways`: a door gives those of its loop, `answer` walks them in the caller's thread. Limits: one request asks about certificates
of one authority; a signed request's signature is ignored, as RFC 6960 allows.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from functools import partial
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa

from lachan import clock, der
from lachan.buckets import Buckets
from lachan.errors import LachanError, TooMany
from lachan.runtime import Runtime
from lachan.statements import Statement
from pki import authorities
from pki.authorities import Authority
from pki.models import certificates, unrecorded
from pki.status_signing import HASHES, OCSP_AT_ONCE, OCSP_LIFE
from pki.steps import walk

R = TypeVar("R")

MAX_AGE = 30  # seconds that an HTTP cache may keep an answer; ours sees a change at once
LIMIT = 8 * 1024
_KEPT = 4096
SIGNED_RATE, SIGNED_BURST = 20.0, 200.0  # answers that must be signed anew, for one address: a second, and at once
_NEVER = datetime.min.replace(tzinfo=UTC)
_NONCE = der.oid("1.3.6.1.5.5.7.48.1.2")
_ALGORITHMS = {der.oid(dotted): name for name, dotted in HASHES.items()}


class Status(IntEnum):
    """OCSPResponseStatus (RFC 6960 4.2.1); 4 is not used."""

    SUCCESSFUL = 0
    MALFORMED_REQUEST = 1
    INTERNAL_ERROR = 2
    TRY_LATER = 3
    UNAUTHORIZED = 6


@dataclass(frozen=True)
class CertId:
    """Which certificate is asked for: issuer by two hashes, serial number as its INTEGER's content octets."""

    hash: str
    name_hash: bytes
    key_hash: bytes
    serial: bytes


@dataclass(frozen=True)
class Question:
    """An OCSPRequest, as far as we answer it."""

    certificates: tuple[CertId, ...]
    nonce: bytes


@dataclass(frozen=True)
class OcspAnswer:
    """An OCSPResponse.

    Attributes:
        content: DER.
        status: OCSPResponseStatus.
        max_age: seconds that HTTP caches may keep it; 0 means not at all.
        authority: whose next change of state ends it; empty when it must not be remembered without asking again.
        until: when it ends by itself.
    """

    content: bytes
    status: Status
    max_age: int = 0
    authority: str = ""
    until: datetime = _NEVER


class Ways(Protocol):
    """What answering needs of whoever asks."""

    rt: Runtime

    async def authorities(self) -> tuple[Authority, ...]:
        """Give the issuing authorities."""

    async def look(self, read: Callable[[sa.Connection], R]) -> R:
        """Read the database."""

    async def signed(self, sender: str, **fields: Any) -> dict[str, Any]:
        """Have the signer answer; senders take turns."""


class _Here:
    """The ways of the caller's thread."""

    def __init__(self, rt: Runtime) -> None:
        self.rt = rt

    async def authorities(self) -> tuple[Authority, ...]:
        """Give the issuing authorities."""
        return authorities.every(self.rt.db)

    async def look(self, read: Callable[[sa.Connection], R]) -> R:
        """Read the database."""
        with self.rt.db.read() as connection:
            return read(connection)

    async def signed(self, sender: str, **fields: Any) -> dict[str, Any]:
        """Ask the signer and wait for it."""
        return self.rt.signer.request("ocsp", **fields)


def answer(rt: Runtime, request: bytes, *, source: str = "") -> OcspAnswer:
    """Answer one OCSP request; errors are answers too (RFC 6960 2.3).

    Args:
        rt: the installation.
        request: DER of an OCSPRequest.
        source: address of a stranger who asks; remembered answers are free, new ones are counted against it.
    """
    return walk(answering(_Here(rt), request, source=source))


def reply(rt: Runtime, question: Question, *, source: str = "") -> OcspAnswer:
    """Answer one question that was taken apart already; ``source`` as in `answer`."""
    return walk(replying(_Here(rt), question, source=source))


async def answering(ways: Ways, request: bytes, *, source: str = "") -> OcspAnswer:
    """Do what `answer` does, by the ways of whoever asks."""
    try:
        question = parse(request)
    except der.MalformedDer:
        return _error(Status.MALFORMED_REQUEST)
    return await replying(ways, question, source=source)


async def replying(ways: Ways, question: Question, *, source: str = "") -> OcspAnswer:
    """Do what `reply` does, by the ways of whoever asks."""
    try:
        authority = _asked_about(await ways.authorities(), question)
        if authority is None:
            return _error(Status.UNAUTHORIZED)
        if question.nonce or len(question.certificates) > 1:
            return OcspAnswer(await _sign(ways, authority, question, source), Status.SUCCESSFUL)
        return await _remembered(ways, authority, question, source)
    except LachanError as error:
        return _error(Status.TRY_LATER if error.status in (429, 503) else Status.INTERNAL_ERROR)


def _asked_about(known: tuple[Authority, ...], question: Question) -> Authority | None:
    """Give the authority whose certificates all parts of the question are about, by the hashes of its name and key."""
    for authority in known:
        if all(authority.hashes[c.hash] == (c.name_hash, c.key_hash) for c in question.certificates):
            return authority
    return None


def parse(request: bytes) -> Question:
    """Take an OCSPRequest apart.

    Raises:
        MalformedDer: it is none, is over 8 KiB, asks for more than 20 certificates, by an unknown hash, or its nonce is
            empty or over 128 octets (RFC 9654 2.1).
    """
    if len(request) > LIMIT:
        raise der.MalformedDer("the request is too large")
    message = der.Reader(request)
    outer = message.inside(0x30)
    message.end()
    body = outer.inside(0x30)
    for tag in (0xA0, 0xA1):  # version, requestorName
        body.optional(tag)
    listed, found = body.inside(0x30), []
    while listed:
        found.append(_certificate_id(listed.inside(0x30).inside(0x30)))
    if not 1 <= len(found) <= OCSP_AT_ONCE:
        raise der.MalformedDer("the request asks for no or too many certificates")
    extensions = body.optional(0xA2)
    return Question(tuple(found), _nonce(extensions.inside(0x30)) if extensions else b"")


def _certificate_id(reader: der.Reader) -> CertId:
    algorithm = _ALGORITHMS.get(der.tlv(0x06, reader.inside(0x30).take(0x06)))
    if algorithm is None:
        raise der.MalformedDer("the hash is neither SHA-1 nor SHA-256")
    found = CertId(algorithm, reader.take(0x04), reader.take(0x04), reader.take(0x02))
    if not 1 <= len(found.serial) <= 32:
        raise der.MalformedDer("the serial number is too long")
    return found


def _nonce(extensions: der.Reader) -> bytes:
    while extensions:
        extension = extensions.inside(0x30)
        wanted = der.tlv(0x06, extension.take(0x06)) == _NONCE
        extension.optional(0x01)
        value = extension.take(0x04)
        if wanted:
            nonce = der.Reader(value).take(0x04)
            if not 1 <= len(nonce) <= 128:
                raise der.MalformedDer("a nonce has 1 to 128 octets")
            return nonce
    return b""


_buckets = Buckets(
    limit=_KEPT, name="ocsp"
)  # by address: a nonce or a made-up serial number costs a signature and a log line


async def _sign(ways: Ways, authority: Authority, question: Question, source: str) -> bytes:
    if source and _buckets.take(source, rate=SIGNED_RATE, burst=SIGNED_BURST):
        raise TooMany("This address asks for too many new answers.", retry_after=1)
    wanted = [{"hash": c.hash, "serial_number": c.serial} for c in question.certificates]
    answer = await ways.signed(source, authority=authority.name, certificates=wanted, nonce=question.nonce)
    response: bytes = answer["response"]
    return response


class _Memory:
    """The most recent answers, at most `_KEPT`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[object, ...], tuple[datetime, bytes]] = OrderedDict()

    def get(self, key: tuple[object, ...]) -> tuple[datetime, bytes] | None:
        with self._lock:
            found = self._kept.get(key)
            return found if found is not None and clock.runs(found[0], term=OCSP_LIFE / 2) else None

    def put(self, key: tuple[object, ...], content: bytes) -> tuple[datetime, bytes]:
        with self._lock:
            found = self._kept[key] = (clock.now() + OCSP_LIFE / 2, content)
            self._kept.move_to_end(key)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return found


_memory = _Memory()


async def _remembered(ways: Ways, authority: Authority, question: Question, source: str) -> OcspAnswer:
    asked = question.certificates[0]
    serial = f"{int.from_bytes(asked.serial, 'big', signed=True):x}"
    version = await ways.look(partial(_state_version, authority.name, serial))
    key = (str(ways.rt.settings.data), authority.name, asked.hash, asked.serial, version)
    found = _memory.get(key)
    if found is None:
        found = _memory.put(key, await _sign(ways, authority, question, source))
    until, content = found
    known = (
        authority.name if version is not None else ""
    )  # one that nobody knows may be recorded without a change of state
    return OcspAnswer(content, Status.SUCCESSFUL, MAX_AGE, known, until)


def _state_version(authority: str, serial: str, connection: sa.Connection) -> int | str | None:
    """Give what changes with every change of the certificate's status; None while nobody knows it."""
    version: int | None = _VERSION.scalar(connection, serial=serial, authority=authority)
    if version is not None:
        return version
    return None if _CLOSED.first(connection, serial=serial, authority=authority) is None else "closed"


_c, _u = certificates.c, unrecorded.c
_VERSION = Statement(
    sa.select(_c.state_version).where(
        _c.serial_number == sa.bindparam("serial"), _c.authority == sa.bindparam("authority")
    )
)
_CLOSED = Statement(
    sa.select(_u.since).where(_u.serial_number == sa.bindparam("serial"), _u.authority == sa.bindparam("authority"))
)


def _error(status: Status) -> OcspAnswer:
    return OcspAnswer(der.sequence(der.enumerated(status)), status)
