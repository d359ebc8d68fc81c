"""What the two `_bulk` doors share: reading the body, and answers in Elasticsearch's shape.

Elasticsearch's clients insist on the header ``X-Elastic-Product`` and on its error objects; everything else of lachan
answers with problem documents. Steps: read (gzip or plain, any content type, because ``curl --data-binary`` names the
wrong one) → `siem_rules.bulk.read` → `siem_rules.ingest` → answer when the lines are on disk.
"""

from __future__ import annotations

import zlib

import orjson
from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool

from lachan.identity import Principal
from lachan.runtime import Runtime
from siem_rules import bulk, ingest
from siem_rules.delivery import Sender
from siem_rules.errors import BacklogFull

#: Bytes of a body after decompression; the door limits what comes over the wire.
BODY = 32 << 20
HEADERS = {"X-Elastic-Product": "Elasticsearch"}


async def deliver(request: Request, rt: Runtime, principal: Principal, *, index: str = "") -> Response:
    """Take one `_bulk` request in as a principal.

    Args:
        request: the request; its body is read here.
        rt: the open installation.
        principal: who delivers.
        index: the index named in the path.
    """
    body = await request.body()
    batch = request.headers.get("idempotency-key", "")[:255]
    return await run_in_threadpool(
        _deliver, rt, principal, body, request.headers.get("content-encoding", ""), batch, index
    )


def _deliver(rt: Runtime, principal: Principal, body: bytes, encoding: str, batch: str, index: str) -> Response:
    try:
        items = bulk.read(_plain(body, encoding), default_index=index)
        answer = ingest.instance(rt).deliver(Sender.of(principal), items, batch=batch)
    except bulk.BulkRefused as error:
        return _json(error.document(), error.status)
    except BacklogFull as error:
        cause = {"type": "es_rejected_execution_exception", "reason": error.detail}
        refused = _json({"error": {"root_cause": [cause], **cause}, "status": 429}, 429)
        refused.headers["Retry-After"] = str(error.fields.get("retry_after", 5))
        return refused
    return _json({"took": answer.took, "errors": answer.errors, "items": answer.items}, 200)


def _plain(body: bytes, encoding: str) -> bytes:
    if encoding.lower() in ("", "identity"):
        return body
    if encoding.lower() not in ("gzip", "x-gzip"):
        raise bulk.BulkRefused(
            "illegal_argument_exception", f"content encoding [{encoding[:40]}] is not supported", 415
        )
    reader = zlib.decompressobj(wbits=31)
    try:
        plain = reader.decompress(body, BODY + 1)
    except zlib.error as error:
        raise bulk.BulkRefused("parse_exception", f"not gzip: {error}") from error
    if len(plain) > BODY:
        raise bulk.BulkRefused(
            "content_too_long_exception", f"body is larger than {BODY} bytes after decompression", 413
        )
    if not reader.eof:
        raise bulk.BulkRefused("parse_exception", "the gzip stream is cut short")
    return plain


def _json(value: object, status: int) -> Response:
    return Response(orjson.dumps(value), status_code=status, media_type="application/json", headers=HEADERS)
