"""Status of certificates for everybody: authorities' certificates, CRLs and OCSP, from memory, over plain HTTP.

What is asked again is given again as it was made, as long as the marks say that nothing it depends on has changed
(`api.memory`): OCSP answers under the revision of their authority, CRLs under their number, certificates of authorities as
they are remembered. OCSP answers are asked of the signer on the loop, many with one frame.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar
from urllib.parse import unquote_to_bytes

from cryptography.hazmat.primitives.serialization import Encoding
from fastapi import APIRouter

from api import machine
from api.answers import MachineAnswer
from api.asked import MachineRequest
from api.files import Served, serve
from api.machine import Auth, MachineRoute
from api.memory import Mark
from api.middleware import entity_tag
from api.status.desk import Kept, StatusDesk
from lachan import clock
from lachan.blobs import NoSuchBlob
from lachan.errors import NotFound, Unavailable
from pki import crl, ocsp, service
from pki.authorities import Hierarchy
from pki.status_signing import OCSP_LIFE

DAY = 24 * 3600
CRL_AGE = 30  # seconds that an HTTP cache may keep a CRL; a hold must be seen soon
KEPT = 4096  # OCSP requests by GET whose answers are found without taking them apart
LONGEST = 512  # octets of a path that is remembered
INLINE = 1 << 20  # octets of a CRL that is kept in memory; a larger one is read from its file
T = TypeVar("T")


def _desk(asked: MachineRequest) -> StatusDesk:
    found: StatusDesk = asked.state.desk
    return found


def _known_of_chain(asked: MachineRequest) -> MachineAnswer | None:
    desk = _desk(asked)
    kept = desk.of_chain.get(asked.parameters.get("name", ""))
    return kept[1] if kept is not None and kept[0] is desk.marks.authorities() else None


async def _from_chain(asked: MachineRequest, make: Callable[[Hierarchy, str], MachineAnswer | None]) -> MachineAnswer:
    """Give what is made of the authorities' certificates; one that was made a moment ago is looked for."""
    desk, name = _desk(asked), asked.parameters.get("name", "")
    for look in (desk.marks.hierarchy, desk.marks.hierarchy_anew):
        hierarchy = await look()
        kept = desk.of_chain.get(name)
        if kept is not None and kept[0] is hierarchy:
            return kept[1]
        made = make(hierarchy, name)
        if made is not None:
            desk.of_chain[name] = (hierarchy, made)
            return made
    raise NotFound(f"There is no authority {name!r}.")


async def authority_certificate(asked: MachineRequest) -> MachineAnswer:
    """Root or an issuing authority, as AIA caIssuers names it (RFC 5280 4.2.2.1)."""

    def make(found: Hierarchy, name: str) -> MachineAnswer | None:
        known = {"root": found.root, **{authority.name: authority.certificate for authority in found.authorities}}
        certificate = known.get(name)
        return (
            None if certificate is None else _stable(certificate.public_bytes(Encoding.DER), b"application/pkix-cert")
        )

    return await _from_chain(asked, make)


async def authority_chain(asked: MachineRequest) -> MachineAnswer:
    """All of them, for people and `openssl verify`."""
    return await _from_chain(
        asked, lambda found, _: _stable(service.pem(*found.chain), b"application/pem-certificate-chain")
    )


def _stable(content: bytes, media_type: bytes) -> MachineAnswer:
    headers = [(b"content-type", media_type), (b"cache-control", b"max-age=%d" % DAY)]
    return MachineAnswer(200, headers, content, etag=entity_tag(content).encode())


async def revocation_list(asked: MachineRequest) -> MachineAnswer:
    """The CRL in force of an authority (RFC 5280 5), or 304 for who has it already."""
    desk, name = _desk(asked), asked.parameters["name"]
    await desk.marks.now()
    if (known := _known_list(asked)) is not None:
        return known
    found = await desk.marks.look(lambda connection: crl.in_force(connection, name))
    left = max(0, int((found.next_update - clock.now()).total_seconds()))
    told = [(b"cache-control", b"max-age=%d" % min(CRL_AGE, left))]
    tag = f'"{name}-{found.number}"'.encode()
    path = crl.store(desk.rt).local_path(found.blob) if found.blob else None
    try:
        if path is not None and found.size > INLINE:
            return serve(Served(path, b"application/pkix-crl", told, tag), {})
        content = await asyncio.to_thread(crl.content, desk.rt, found)
    except (FileNotFoundError, NoSuchBlob) as error:  # lost with its disk: `refresh` makes a new one within the minute
        raise Unavailable(f"The CRL of {name!r} is being made anew.") from error
    answer = MachineAnswer(200, [(b"content-type", b"application/pkix-crl"), *told], content, etag=tag)
    if found.size <= INLINE:
        until = found.next_update - timedelta(seconds=CRL_AGE)
        desk.lists[name] = Kept(answer, name, found.number, until)
    return answer


def _known_list(asked: MachineRequest) -> MachineAnswer | None:
    desk, name = _desk(asked), asked.parameters["name"]
    kept = desk.lists.get(name)
    if kept is None or (mark := desk.marks.fresh()) is None or mark.crls.get(name) != kept.under:
        return None
    return kept.answer if clock.now() < kept.until else None


async def ocsp_post(asked: MachineRequest) -> MachineAnswer:
    """OCSP over POST (RFC 6960 A.1); errors are OCSP answers too."""
    desk = _desk(asked)
    return (await _ocsp(asked, desk, None, await asked.body())).answer


async def ocsp_get(asked: MachineRequest) -> MachineAnswer:
    """OCSP over GET (RFC 5019 5): base64, percent-encoded, in the path."""
    desk = _desk(asked)
    raw: bytes = asked.scope["raw_path"]
    mark = await desk.marks.now()
    if (known := _known_status(asked)) is not None:
        return known
    try:
        body = base64.b64decode(unquote_to_bytes(raw.partition(b"?")[0].partition(b"/ocsp/")[2]), validate=True)
    except binascii.Error:
        body = b""
    made = await _ocsp(asked, desk, mark, body)
    if made.authority and len(raw) <= LONGEST:
        desk.asked.pop(raw, None)
        desk.asked[raw] = made
        if len(desk.asked) > KEPT:
            del desk.asked[next(iter(desk.asked))]
    return made.answer


def _known_status(asked: MachineRequest) -> MachineAnswer | None:
    desk = _desk(asked)
    kept = desk.asked.get(asked.scope["raw_path"])
    if kept is None or (mark := desk.marks.fresh()) is None or mark.revisions.get(kept.authority, 0) != kept.under:
        return None
    return kept.answer if clock.runs(kept.until, term=OCSP_LIFE) else None


async def _ocsp(asked: MachineRequest, desk: StatusDesk, mark: Mark | None, body: bytes) -> Kept:
    """Answer one OCSP request; what may not be remembered names no authority."""
    found = await ocsp.answering(desk, body, source=asked.address or "unknown")
    cache = b"max-age=%d, public, no-transform, must-revalidate" % found.max_age if found.max_age else b"no-store"
    headers = [(b"content-type", b"application/ocsp-response"), (b"cache-control", cache)]
    etag = entity_tag(found.content).encode() if found.max_age else b""
    answer = MachineAnswer(200, headers, found.content, etag=etag)
    return Kept(answer, found.authority, mark.revisions.get(found.authority, 0) if mark else -1, found.until)


def _route(method: str, path: str, handler: machine.Handler, summary: str, **more: object) -> MachineRoute:
    return MachineRoute(
        method=method, path=path, auth=Auth.OPEN, handler=handler, name=handler.__name__, summary=summary, **more  # type: ignore[arg-type]
    )  # fmt: skip


MACHINE = (
    _route("GET", "/ca/{name}.crt", authority_certificate, "An authority's certificate (DER)", ready=_known_of_chain),
    _route("GET", "/ca/chain.pem", authority_chain, "Issuing authorities and root (PEM)", ready=_known_of_chain),
    _route("GET", "/crl/{name}.crl", revocation_list, "A revocation list (DER)", ready=_known_list),
    _route("POST", "/ocsp", ocsp_post, "Ask for the status of certificates", limit=64 << 10),
    _route(
        "GET",
        "/ocsp/{encoded:path}",
        ocsp_get,
        "Ask for the status of certificates, cacheable",
        raw=True,
        ready=_known_status,
    ),
)
router = APIRouter(tags=["status"])
machine.document(router, MACHINE)
