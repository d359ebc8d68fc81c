"""Enrolment over Secure Transport (RFC 7030): the HTTP side of `pki.enrolment`.

Routes: ``cacerts``, ``csrattrs``, ``simpleenroll`` (HTTP Basic: device name and one-time secret) and ``simplereenroll``
(mutual TLS), each also under ``/{label}``, where the label is a profile. What we lack (``fullcmc``, ``serverkeygen``)
answers 501 and says so. Errors are one plain sentence and what to do next, for the person who reads the device's log.
Limits: answers are complete or refused; 202 with Retry-After is never used.
"""

import base64
import binascii
from collections.abc import Iterator

from cryptography.hazmat.primitives.serialization import Encoding
from fastapi import APIRouter, Request

from api import machine, problems
from api.answers import MachineAnswer
from api.asked import MachineRequest
from api.device.access import Verified
from api.machine import Auth, MachineRoute
from lachan import der
from lachan.errors import LachanError
from pki import csr, profiles, service
from pki.errors import CsrMalformed, ProfileUnknown, SecretRefused

LIMIT = 2 * csr.LIMIT  # base64 and line ends around the largest request
CHALLENGE = 'Basic realm="est"'
PKCS7 = b"application/pkcs7-mime"
ISSUED = PKCS7 + b"; smime-type=certs-only"
SIGNED_DATA, DATA, EMPTY_SET = der.oid("1.2.840.113549.1.7.2"), der.oid("1.2.840.113549.1.7.1"), der.set_of()
# What a device should put into its request (RFC 7030 4.5.2): a P-256 key, signed with ecdsa-with-SHA256.
ATTRIBUTES = der.sequence(
    der.sequence(der.oid("1.2.840.10045.2.1"), der.tlv(0x31, der.oid("1.2.840.10045.3.1.7"))),
    der.oid("1.2.840.10045.4.3.2"),
)


class EstMediaType(LachanError):
    """The body is not declared as a PKCS#10 request."""

    status, title, hint = 415, "Not a certification request", "Send Content-Type: application/pkcs10."


class EstUnsupported(LachanError):
    """An optional operation of RFC 7030 that this server lacks."""

    status, title, hint = 501, "Not offered by this server", "Make the key on the device and use simpleenroll."


def refusal(request: Request, error: LachanError) -> MachineAnswer:
    """One sentence and what to do next (RFC 7030 4.2.3: errors are for humans)."""
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    if error.status == 401:
        challenge = CHALLENGE if isinstance(error, SecretRefused) else str(request.app.state.challenge)
        headers.append((b"www-authenticate", challenge.encode()))
    if (wait := problems.retry_after(error)) is not None:
        headers.append((b"retry-after", str(wait).encode()))
    if error.status == 500:
        raise error
    return MachineAnswer(error.status, headers, f"{error.detail.rstrip('.')}. {error.hint}\n".encode())


def _profile(asked: MachineRequest) -> str | None:
    """Give the profile that the URL's label names; None without a label.

    Raises:
        ProfileUnknown: no profile of devices has that name.
    """
    label = asked.label
    if label is not None and profiles.get(label).names is not profiles.Names.DEVICE:
        raise ProfileUnknown(f"The profile {label} is not for devices.")
    return label


async def _pkcs10(asked: MachineRequest) -> bytes:
    """Give the PKCS#10 request in DER; base64 is undone, also with line ends or PEM marks.

    Raises:
        EstMediaType: Content-Type is not application/pkcs10.
        TooLarge: the body is over the limit.
        CsrMalformed: the body is neither DER nor base64.
    """
    if asked.headers.get(b"content-type", b"").split(b";")[0].strip().lower() != b"application/pkcs10":
        raise EstMediaType("The body must be a PKCS#10 request.")
    body = await asked.body(limit=LIMIT)
    if body[:1] == b"\x30" and body[1:2] >= b"\x80":
        return body
    lines = [line.strip() for line in body.splitlines() if not line.startswith(b"-----")]
    try:
        return base64.b64decode(b"".join(lines), validate=True)
    except binascii.Error:
        raise CsrMalformed("The body is neither DER nor base64.") from None


def _credentials(asked: MachineRequest) -> tuple[str, str]:
    """Device name and secret from HTTP Basic (RFC 7617).

    Raises:
        SecretRefused: there are none.
    """
    scheme, _, encoded = asked.headers.get(b"authorization", b"").partition(b" ")
    try:
        name, colon, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        colon = ""
    if scheme.lower() != b"basic" or not colon:
        raise SecretRefused("Enrolment needs the device's name and its one-time secret by HTTP Basic.")
    return name, secret


def _bindings(asked: MachineRequest) -> tuple[bytes, ...]:
    """Give the channel bindings of this TLS connection: tls-unique (TLS 1.2) and the RFC 9266 exporter (TLS 1.3)."""
    tls = asked.request.scope.get("extensions", {}).get("lachan.tls", {})
    return tuple(binding for binding in (tls.get("tls_unique"), tls.get("exporter")) if binding)


async def cacerts(asked: MachineRequest) -> MachineAnswer:
    """Issuing authority and root as certs-only PKCS#7 (RFC 7030 4.1)."""
    _profile(asked)
    hierarchy = await asked.state.desk.marks.hierarchy()
    made = _answer(asked, _certs_only(*(found.public_bytes(Encoding.DER) for found in hierarchy.chain)), PKCS7)
    asked.state.desk.cacerts[b"user-agent" in asked.headers] = (hierarchy, made)
    return made


def _known_cacerts(asked: MachineRequest) -> MachineAnswer | None:
    _profile(asked)
    hierarchy, made = asked.state.desk.cacerts.get(b"user-agent" in asked.headers, (None, None))
    return made if made is not None and asked.state.desk.marks.authorities() is hierarchy else None


async def csrattrs(asked: MachineRequest) -> MachineAnswer:
    """Key type and signature that we like best (RFC 7030 4.5)."""
    _profile(asked)
    return _answer(asked, ATTRIBUTES, b"application/csrattrs")


async def simpleenroll(asked: MachineRequest) -> MachineAnswer:
    """Give a certificate for the secret's device (RFC 7030 4.2.1); a contained device gets none."""
    label, (name, secret) = _profile(asked), _credentials(asked)
    state = asked.request.app.state
    enrolled = await service.enrolling(
        state.rt, state.issuing, device_name=name, secret=secret, csr_der=await _pkcs10(asked),
        source=asked.address, profile=label, bindings=_bindings(asked),
    )  # fmt: skip
    return _answer(asked, _certs_only(enrolled.content), ISSUED)


async def simplereenroll(asked: MachineRequest) -> MachineAnswer:
    """Give a further certificate for the device that the connection proves (RFC 7030 4.2.2); its names stay."""
    label, state = _profile(asked), asked.request.app.state
    device: Verified = asked.device
    enrolled = await service.renewing(
        state.rt, state.issuing, device_id=device.device_id, certificate=device.certificate,
        csr_der=await _pkcs10(asked), profile=label, bindings=_bindings(asked),
    )  # fmt: skip
    return _answer(asked, _certs_only(enrolled.content), ISSUED)


async def unsupported(asked: MachineRequest) -> MachineAnswer:
    """Optional operations of RFC 7030 (4.3, 4.4) that we lack."""
    raise EstUnsupported("Full CMC and server-side key generation are not offered here.")


PREFIX = "/.well-known/est"


def _routes() -> Iterator[MachineRoute]:
    """Each operation without and with a label."""
    for method, handler, auth, summary, named in (
        ("POST", unsupported, Auth.OPEN, "Not offered", "fullcmc"),
        ("POST", unsupported, Auth.OPEN, "Not offered", "serverkeygen"),
        ("GET", cacerts, Auth.OPEN, "Certificates of the authorities", ""),
        ("GET", csrattrs, Auth.OPEN, "What a request should contain", ""),
        ("POST", simpleenroll, Auth.OPEN, "Enrol with a one-time secret", ""),
        ("POST", simplereenroll, Auth.DEVICE, "Renew or rekey", ""),
    ):
        what = named or handler.__name__
        for path, name, addition in ((what, what, ""), (f"{{label}}/{what}", f"label_{what}", ", by profile")):
            yield MachineRoute(
                method=method, path=f"{PREFIX}/{path}", auth=auth, handler=handler, refusal=refusal, name=f"est_{name}",
                summary=summary + addition, ready=_known_cacerts if handler is cacerts else None, limit=LIMIT,
            )  # fmt: skip


MACHINE = tuple(_routes())
router = APIRouter(tags=["est"])
machine.document(router, MACHINE)


def _certs_only(*certificates: bytes) -> bytes:
    """A degenerate SignedData, which holds nothing but certificates (RFC 8951 3.2, RFC 2315 9.1)."""
    held = der.explicit(0, *sorted(certificates))  # a SET OF, so in the order of their octets
    signed_data = der.tlv(0x30, der.integer(1), EMPTY_SET, der.sequence(DATA), held, EMPTY_SET)
    return der.sequence(SIGNED_DATA, der.explicit(0, signed_data))


def _answer(asked: MachineRequest, content: bytes, media_type: bytes) -> MachineAnswer:
    """Base64, wrapped at 64 as libest needs it; in one line for strongSwan up to 5.9, which names no User-Agent."""
    text = base64.b64encode(content)
    if b"user-agent" in asked.headers:
        text = b"\n".join([text[at : at + 64] for at in range(0, len(text), 64)]) + b"\n"
    headers = [
        (b"content-type", media_type), (b"content-transfer-encoding", b"base64"), (b"cache-control", b"no-store")
    ]  # fmt: skip
    return MachineAnswer(200, headers, text)
