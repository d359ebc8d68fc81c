"""Status of certificates for everybody: authorities' certificates, CRLs and OCSP, from rows and files, over plain HTTP."""

import base64
import binascii
from typing import Annotated
from urllib.parse import unquote_to_bytes

from cryptography.hazmat.primitives.serialization import Encoding
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse

from api.files import MappedFile, knows
from api.status.app import runtime
from lachan import clock
from lachan.blobs import NoSuchBlob
from lachan.errors import NotFound, Unavailable
from lachan.runtime import Runtime
from pki import crl, ocsp, service

router = APIRouter(tags=["status"])
Open = Annotated[Runtime, Depends(runtime)]
DAY = 24 * 3600
CRL = "application/pkix-crl"
CRL_AGE = 30  # seconds that an HTTP cache may keep a CRL; a hold must be seen soon


@router.get("/ca/{name}.crt", summary="An authority's certificate (DER)")
def authority_certificate(name: str, rt: Open) -> Response:
    """Root or an issuing authority, as AIA caIssuers names it (RFC 5280 4.2.2.1)."""
    found = service.hierarchy(rt.db)
    certificates = {"root": found.root, **{authority.name: authority.certificate for authority in found.authorities}}
    if name not in certificates:
        raise NotFound(f"There is no authority {name!r}.")
    content = certificates[name].public_bytes(Encoding.DER)
    return Response(content, headers={"Cache-Control": f"max-age={DAY}"}, media_type="application/pkix-cert")


@router.get("/ca/chain.pem", summary="Issuing authorities and root (PEM)")
def authority_chain(rt: Open) -> Response:
    """All of them, for people and `openssl verify`."""
    content = service.pem(*service.hierarchy(rt.db).chain)
    return Response(
        content, headers={"Cache-Control": f"max-age={DAY}"}, media_type="application/pem-certificate-chain"
    )


@router.get("/crl/{name}.crl", summary="A revocation list (DER)")
def revocation_list(request: Request, name: str, rt: Open) -> Response:
    """The CRL in force of an authority (RFC 5280 5), or 304 for who has it already."""
    found = service.latest(rt, name)
    left = max(0, int((found.next_update - clock.now()).total_seconds()))
    tag = f'"{name}-{found.number}"'
    headers = {"Cache-Control": f"max-age={min(CRL_AGE, left)}", "ETag": tag}
    if knows(request.headers.get("if-none-match", ""), tag):
        return Response(status_code=304, headers=headers)
    if not found.blob:
        return Response(found.inline, headers=headers, media_type=CRL)
    path = crl.store(rt).local_path(found.blob)
    try:
        if path is not None:
            return MappedFile(path, headers=headers, media_type=CRL)
        headers["Content-Length"] = str(found.size)
        return StreamingResponse(crl.store(rt).open(found.blob), headers=headers, media_type=CRL)
    except (FileNotFoundError, NoSuchBlob) as error:  # lost with its disk: `refresh` makes a new one within the minute
        raise Unavailable(f"The CRL of {name!r} is being made anew.") from error


async def posted(request: Request) -> bytes:
    """Give the body; the door limits its size."""
    return await request.body()


@router.post("/ocsp", summary="Ask for the status of certificates")
def ocsp_post(request: Request, rt: Open, body: Annotated[bytes, Depends(posted)]) -> Response:
    """OCSP over POST (RFC 6960 A.1); errors are OCSP answers too."""
    return _answer(request, rt, body)


@router.get("/ocsp/{encoded:path}", summary="Ask for the status of certificates, cacheable")
def ocsp_get(request: Request, rt: Open) -> Response:
    """OCSP over GET (RFC 5019 5): base64, percent-encoded, in the path."""
    raw = request.scope.get("raw_path", b"").partition(b"?")[0].partition(b"/ocsp/")[2]
    try:
        body = base64.b64decode(unquote_to_bytes(raw), validate=True)
    except binascii.Error:
        body = b""
    return _answer(request, rt, body)


def _answer(request: Request, rt: Runtime, body: bytes) -> Response:
    found = ocsp.answer(rt, body, source=request.client.host if request.client else "unknown")
    cache = f"max-age={found.max_age}, public, no-transform, must-revalidate" if found.max_age else "no-store"
    return Response(found.content, headers={"Cache-Control": cache}, media_type="application/ocsp-response")
