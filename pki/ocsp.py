"""Answering OCSP (RFC 6960, RFC 5019): take the request apart, look, have it signed, remember what may be remembered.

Every answer is signed by the delegated responder inside the signer. Answers without a nonce are kept in memory under the
certificate's state version, so a change of state is seen at the next request. Limits: one request asks about certificates
of one authority; a signed request's signature is ignored, as RFC 6960 allows.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

import sqlalchemy as sa

from lachan import clock, der
from lachan.buckets import Buckets
from lachan.errors import LachanError, TooMany
from lachan.runtime import Runtime
from pki import authorities
from pki.authorities import Authority
from pki.models import certificates, unrecorded
from pki.status_signing import HASHES, OCSP_AT_ONCE, OCSP_LIFE

MAX_AGE = 30  # seconds that an HTTP cache may keep an answer; ours sees a change at once
LIMIT = 8 * 1024
_KEPT = 4096
SIGNED_RATE, SIGNED_BURST = 20.0, 200.0  # answers that must be signed anew, for one address: a second, and at once
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
    """

    content: bytes
    status: Status
    max_age: int = 0


def answer(rt: Runtime, request: bytes, *, source: str = "") -> OcspAnswer:
    """Answer one OCSP request; errors are answers too (RFC 6960 2.3).

    Args:
        rt: the installation.
        request: DER of an OCSPRequest.
        source: address of a stranger who asks; remembered answers are free, new ones are counted against it.
    """
    try:
        question = parse(request)
    except der.MalformedDer:
        return _error(Status.MALFORMED_REQUEST)
    return reply(rt, question, source=source)


def reply(rt: Runtime, question: Question, *, source: str = "") -> OcspAnswer:
    """Answer one question that was taken apart already; ``source`` as in `answer`."""
    try:
        authority = _asked_about(rt, question)
        if authority is None:
            return _error(Status.UNAUTHORIZED)
        if question.nonce or len(question.certificates) > 1:
            return OcspAnswer(_sign(rt, authority, question, source), Status.SUCCESSFUL)
        return OcspAnswer(_remembered(rt, authority, question, source), Status.SUCCESSFUL, MAX_AGE)
    except LachanError as error:
        return _error(Status.TRY_LATER if error.status in (429, 503) else Status.INTERNAL_ERROR)


def _asked_about(rt: Runtime, question: Question) -> Authority | None:
    """The authority whose certificates all parts of the question are about, by the hashes of its name and key."""
    for authority in authorities.every(rt.db):
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


_buckets = Buckets(limit=_KEPT)  # by address: a nonce or a made-up serial number costs a signature and a log line


def _sign(rt: Runtime, authority: Authority, question: Question, source: str) -> bytes:
    if source and _buckets.take(source, rate=SIGNED_RATE, burst=SIGNED_BURST):
        raise TooMany("This address asks for too many new answers.", retry_after=1)
    wanted = [{"hash": c.hash, "serial_number": c.serial} for c in question.certificates]
    answer = rt.signer.request("ocsp", authority=authority.name, certificates=wanted, nonce=question.nonce)
    response: bytes = answer["response"]
    return response


class _Memory:
    """The most recent answers, at most `_KEPT`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[object, ...], tuple[datetime, bytes]] = OrderedDict()

    def get(self, key: tuple[object, ...]) -> bytes | None:
        with self._lock:
            until, content = self._kept.get(key, (None, None))
            return content if until is not None and clock.now() < until else None

    def put(self, key: tuple[object, ...], content: bytes) -> None:
        with self._lock:
            self._kept[key] = (clock.now() + OCSP_LIFE / 2, content)
            self._kept.move_to_end(key)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)


_memory = _Memory()


def _remembered(rt: Runtime, authority: Authority, question: Question, source: str) -> bytes:
    asked = question.certificates[0]
    serial = f"{int.from_bytes(asked.serial, 'big', signed=True):x}"
    version = _state_version(rt, authority, serial)
    key = (str(rt.settings.data), authority.name, asked.hash, asked.serial, version)
    content = _memory.get(key)
    if content is None:
        content = _sign(rt, authority, question, source)
        _memory.put(key, content)
    return content


def _state_version(rt: Runtime, authority: Authority, serial: str) -> int | str | None:
    """Changes with every change of the certificate's status; None while nobody knows it."""
    c, u = certificates.c, unrecorded.c
    query = sa.select(c.state_version).where(c.serial_number == serial, c.authority == authority.name)
    with rt.db.read() as connection:
        version: int | None = connection.execute(query).scalar()
        if version is not None:
            return version
        closed = sa.select(u.since).where(u.serial_number == serial, u.authority == authority.name)
        return None if connection.execute(closed).first() is None else "closed"


def _error(status: Status) -> OcspAnswer:
    return OcspAnswer(der.sequence(der.enumerated(status)), status)
