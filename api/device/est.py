"""Enrolment over Secure Transport (RFC 7030): the HTTP side of `pki.enrolment`.

Routes: ``cacerts``, ``csrattrs``, ``simpleenroll`` (HTTP Basic: device name and one-time secret) and ``simplereenroll``
(mutual TLS), each also under ``/{label}``, where the label is a profile. What we lack (``fullcmc``, ``serverkeygen``)
answers 501 and says so. Errors are one plain sentence and what to do next, for the person who reads the device's log.
Limits: answers are complete or refused; 202 with Retry-After is never used.
"""

import base64
import binascii
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from fastapi import APIRouter, Depends, Request, Response
from fastapi.routing import APIRoute

from api.device.access import Verified, runtime, verified
from lachan import der
from lachan.errors import LachanError, TooLarge
from lachan.runtime import Runtime
from pki import csr, profiles, service
from pki.errors import CsrMalformed, ProfileUnknown, SecretRefused

LIMIT = 2 * csr.LIMIT  # base64 and line ends around the largest request
CHALLENGE = 'Basic realm="est"'
PKCS7 = "application/pkcs7-mime"
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


class EstRoute(APIRoute):
    """Turns refusals, those of the door's guard too, into plain text."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """The usual handler, with `refusal` around it."""
        handler = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await handler(request)
            except LachanError as error:
                return refusal(request, error)

        return answered


def refusal(request: Request, error: LachanError) -> Response:
    """One sentence and what to do next (RFC 7030 4.2.3: errors are for humans)."""
    headers = {}
    if error.status == 401:
        basic = isinstance(error, SecretRefused)
        headers["WWW-Authenticate"] = CHALLENGE if basic else str(request.app.state.challenge)
    if "retry_after" in error.fields:
        headers["Retry-After"] = str(error.fields["retry_after"])
    if error.status == 500:
        raise error
    text = f"{error.detail.rstrip('.')}. {error.hint}\n"
    return Response(text, error.status, headers, media_type="text/plain; charset=utf-8")


router = APIRouter(prefix="/.well-known/est", tags=["est"], route_class=EstRoute)
Open = Annotated[Runtime, Depends(runtime)]


def profile(request: Request) -> str | None:
    """The profile that the URL's label names; None without a label.

    Raises:
        ProfileUnknown: no profile of devices has that name.
    """
    label = request.path_params.get("label")
    if label is not None and profiles.get(label).names is not profiles.Names.DEVICE:
        raise ProfileUnknown(f"The profile {label} is not for devices.")
    return label


async def request_body(request: Request) -> bytes:
    """The PKCS#10 request in DER; base64 is undone, also with line ends or PEM marks.

    Raises:
        EstMediaType: Content-Type is not application/pkcs10.
        TooLarge: the body is over the limit.
        CsrMalformed: the body is neither DER nor base64.
    """
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/pkcs10":
        raise EstMediaType("The body must be a PKCS#10 request.")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LIMIT:
            raise TooLarge(f"The request is larger than {LIMIT} octets.")
    if body[:1] == b"\x30" and body[1:2] >= b"\x80":
        return body
    lines = [line.strip() for line in body.splitlines() if not line.startswith(b"-----")]
    try:
        return base64.b64decode(b"".join(lines), validate=True)
    except binascii.Error:
        raise CsrMalformed("The body is neither DER nor base64.") from None


def credentials(request: Request) -> tuple[str, str]:
    """Device name and secret from HTTP Basic (RFC 7617).

    Raises:
        SecretRefused: there are none.
    """
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    try:
        name, colon, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        colon = ""
    if scheme.lower() != "basic" or not colon:
        raise SecretRefused("Enrolment needs the device's name and its one-time secret by HTTP Basic.")
    return name, secret


def bindings(request: Request) -> tuple[bytes, ...]:
    """The channel bindings of this TLS connection: tls-unique (TLS 1.2) and the RFC 9266 exporter (TLS 1.3)."""
    tls = request.scope.get("extensions", {}).get("lachan.tls", {})
    return tuple(binding for binding in (tls.get("tls_unique"), tls.get("exporter")) if binding)


Label = Annotated[str | None, Depends(profile)]
Body = Annotated[bytes, Depends(request_body)]
Bindings = Annotated[tuple[bytes, ...], Depends(bindings)]


@router.get("/cacerts", summary="Certificates of the authorities", name="est_cacerts")
@router.get("/{label}/cacerts", summary="Certificates of the authorities, for one profile", name="est_label_cacerts")
def cacerts(request: Request, rt: Open, label: Label) -> Response:
    """Issuing authority and root as certs-only PKCS#7 (RFC 7030 4.1)."""
    return _answer(request, _certs_only(service.hierarchy(rt.db).chain), PKCS7)


@router.get("/csrattrs", summary="What a request should contain", name="est_csrattrs")
@router.get("/{label}/csrattrs", summary="What a request should contain, for one profile", name="est_label_csrattrs")
def csrattrs(request: Request, label: Label) -> Response:
    """Key type and signature that we like best (RFC 7030 4.5)."""
    return _answer(request, ATTRIBUTES, "application/csrattrs")


@router.post("/simpleenroll", summary="Enrol with a one-time secret", name="est_simpleenroll")
@router.post("/{label}/simpleenroll", summary="Enrol with a one-time secret, by profile", name="est_label_simpleenroll")
def simpleenroll(
    request: Request,
    rt: Open,
    label: Label,
    who: Annotated[tuple[str, str], Depends(credentials)],
    body: Body,
    binding: Bindings,
) -> Response:
    """A certificate for the secret's device (RFC 7030 4.2.1); a contained device gets none."""
    enrolled = service.enrol(
        rt,
        device_name=who[0],
        secret=who[1],
        csr_der=body,
        source=request.client.host if request.client else "",
        profile=label,
        bindings=binding,
    )
    return _issued(request, enrolled)


@router.post("/simplereenroll", summary="Renew or rekey", name="est_simplereenroll")
@router.post("/{label}/simplereenroll", summary="Renew or rekey, by profile", name="est_label_simplereenroll")
def simplereenroll(
    request: Request,
    rt: Open,
    label: Label,
    device: Annotated[Verified, Depends(verified)],
    body: Body,
    binding: Bindings,
) -> Response:
    """A further certificate for the device that the connection proves (RFC 7030 4.2.2); its names stay."""
    enrolled = service.reenrol(
        rt,
        device_id=device.device_id,
        certificate=device.certificate,
        csr_der=body,
        profile=label,
        bindings=binding,
    )
    return _issued(request, enrolled)


@router.post("/fullcmc", summary="Not offered", name="est_fullcmc")
@router.post("/serverkeygen", summary="Not offered", name="est_serverkeygen")
@router.post("/{label}/fullcmc", summary="Not offered", name="est_label_fullcmc")
@router.post("/{label}/serverkeygen", summary="Not offered", name="est_label_serverkeygen")
def unsupported() -> Response:
    """Optional operations of RFC 7030 (4.3, 4.4) that we lack."""
    raise EstUnsupported("Full CMC and server-side key generation are not offered here.")


def _issued(request: Request, enrolled: service.Enrolled) -> Response:
    return _answer(request, _certs_only([enrolled.certificate]), f"{PKCS7}; smime-type=certs-only")


def _certs_only(certificates: list[Any]) -> bytes:
    return pkcs7.serialize_certificates(certificates, Encoding.DER)


def _answer(request: Request, content: bytes, media_type: str) -> Response:
    """Base64, wrapped at 64 as libest needs it; in one line for strongSwan up to 5.9, which names no User-Agent."""
    width = 64 if "user-agent" in request.headers else max(1, 2 * len(content))
    text = base64.b64encode(content)
    lines = b"\n".join(text[at : at + width] for at in range(0, len(text), width))
    headers = {"Content-Transfer-Encoding": "base64", "Cache-Control": "no-store"}
    return Response(lines if width > 64 else lines + b"\n", headers=headers, media_type=media_type)
