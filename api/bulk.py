"""What the two `_bulk` doors share: reading the body, and answers in Elasticsearch's shape.

Elasticsearch's clients insist on the header ``X-Elastic-Product`` and on its error objects; everything else of lachan
answers with problem documents. Steps: read (gzip or plain, any content type, because ``curl --data-binary`` names the
wrong one) → `siem_rules.bulk.read` → `siem_rules.ingest` → answer when the lines are on disk.
"""

from __future__ import annotations

import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

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
#: Bytes of bodies that may wait in memory at once: of one sender, and of all.
OF_ONE, OF_ALL = 2 * BODY, 8 * BODY
HEADERS = {"X-Elastic-Product": "Elasticsearch"}


async def deliver(request: Request, rt: Runtime, principal: Principal, *, index: str = "") -> Response:
    """Take one `_bulk` request in as a principal.

    Args:
        request: the request; its body is read here.
        rt: the open installation.
        principal: who delivers.
        index: the index named in the path.
    """
    batch = request.headers.get("idempotency-key", "")[:255]
    encoding = request.headers.get("content-encoding", "")
    with _ROOM.for_sender(principal.label) as room:
        body = bytearray()
        async for piece in request.stream():
            if not room.take(len(piece)):
                return _rejected("Too many bytes of bodies wait here at once.", 1)
            body += piece
        if encoding and not room.take(BODY):
            return _rejected("Too many compressed bodies wait here at once.", 1)
        return await run_in_threadpool(_deliver, rt, principal, bytes(body), encoding, batch, index)


class _Room:
    """How many bytes of bodies are in memory, in all and of each sender: a flood of them waits outside."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: Counter[str] = Counter()

    @contextmanager
    def for_sender(self, label: str) -> Iterator[_Share]:
        """Give a share that is given back at the end of the block."""
        share = _Share(self, label)
        try:
            yield share
        finally:
            self.change(label, -share.taken)

    def change(self, label: str, size: int) -> bool:
        """Count bytes; False, and nothing counted, when there is no room for them."""
        with self._lock:
            if size > 0 and (self._taken[label] + size > OF_ONE or self._taken.total() + size > OF_ALL):
                return False
            self._taken[label] += size
            if not self._taken[label]:
                del self._taken[label]
            return True


class _Share:
    """What one request has taken."""

    def __init__(self, room: _Room, label: str) -> None:
        self._room, self._label, self.taken = room, label, 0

    def take(self, size: int) -> bool:
        """Take more room; False when there is none."""
        if not self._room.change(self._label, size):
            return False
        self.taken += size
        return True


_ROOM = _Room()


def _deliver(rt: Runtime, principal: Principal, body: bytes, encoding: str, batch: str, index: str) -> Response:
    try:
        items = bulk.read(_plain(body, encoding), default_index=index)
        answer = ingest.instance(rt).deliver(Sender.of(principal), items, batch=batch)
    except bulk.BulkRefused as error:
        return _json(error.document(), error.status)
    except BacklogFull as error:
        return _rejected(error.detail, int(error.fields.get("retry_after", 5)))
    return _json({"took": answer.took, "errors": answer.errors, "items": answer.items}, 200)


def _rejected(reason: str, retry_after: int) -> Response:
    cause = {"type": "es_rejected_execution_exception", "reason": reason}
    refused = _json({"error": {"root_cause": [cause], **cause}, "status": 429}, 429)
    refused.headers["Retry-After"] = str(retry_after)
    return refused


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
