"""What the two `_bulk` doors share: taking a body in, and answers in Elasticsearch's shape.

Elasticsearch's clients insist on the header ``X-Elastic-Product`` and on its error objects; everything else of lachan
answers with problem documents. Steps: the body, which waits on disk as long as it is not whole (`api.spool`) → gzip or plain
(any content type, because ``curl --data-binary`` names the wrong one) → `siem_rules.bulk.read` → `siem_rules.ingest` → one sync
for all who wait (`_Shared`) → answer. Small bodies are read and appended on the loop; a thread is taken for large ones,
`AT_ONCE` at a time, and for syncs.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import orjson
from fastapi import Request, Response

from api.answers import Headers, MachineAnswer
from api.spool import Body, Spool, SpoolFull
from lachan.identity import Principal
from lachan.runtime import Runtime
from siem_rules import bulk, ingest
from siem_rules.bulk import Item
from siem_rules.delivery import Sender
from siem_rules.errors import BacklogFull

#: Bytes of a body after decompression; the door limits what comes over the wire.
BODY = 32 << 20
SMALL = 16 << 10  # octets of a body that is read on the loop
AT_ONCE = 2  # large bodies that are in memory at once
HEADERS: Headers = [(b"content-type", b"application/json"), (b"x-elastic-product", b"Elasticsearch")]


class BulkDesk:
    """This process's way in for both doors: where bodies wait, and one sync for many.

    Args:
        rt: the open installation.
    """

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self.spool = Spool(rt.settings.data / "spool")
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="bulk")
        self._syncing = ThreadPoolExecutor(1, thread_name_prefix="bulk-sync")
        self._kept = 0
        self._sync: asyncio.Future[int] | None = None
        self._ingest: ingest.Ingest | None = None

    @classmethod
    def of(cls, rt: Runtime) -> BulkDesk:
        """Give the one of this process."""
        return rt.keep(cls, lambda: cls(rt))

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()
        self._syncing.shutdown()

    async def deliver(
        self, principal: Principal, stream: AsyncIterator[bytes], headers: dict[bytes, bytes], *, index: str = ""
    ) -> MachineAnswer:
        """Take one `_bulk` request in as a principal.

        Args:
            principal: who delivers.
            stream: the body.
            headers: of the request.
            index: the index named in the path.
        """
        began, sender = time.monotonic(), Sender.of(principal)
        batch = headers.get(b"idempotency-key", b"").decode("latin-1")[:255]
        encoding = headers.get(b"content-encoding", b"").decode("latin-1").lower()
        try:
            with await self.spool.take(principal.label, stream) as body:
                items, end = await self._append(sender, body, encoding, batch, index)
            await self._shared(end)
            told = ingest.told(items, end, began)
        except bulk.BulkRefused as error:
            return _json(error.document(), error.status)
        except BacklogFull as error:
            return _rejected(error.detail, int(error.fields.get("retry_after", 5)))
        except SpoolFull as error:
            return _rejected(error.detail, 1)
        return _json({"took": told.took, "errors": told.errors, "items": told.items}, 200)

    async def _append(
        self, sender: Sender, body: Body, encoding: str, batch: str, index: str
    ) -> tuple[list[Item], int]:
        taking = await self._opened()
        if taking.check_is_due(sender):
            await asyncio.to_thread(taking.check, sender)
        if body.size <= SMALL and not encoding:
            taking.check(sender)
            items = bulk.read(body.read(), default_index=index)
            end = taking.append_at_once(sender, items, batch=batch)
            if end is not None:
                return items, end
        work = partial(_read_and_append, taking, sender, body, encoding, batch, index)
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _opened(self) -> ingest.Ingest:
        """Give this process's stream; opening it reads what lies there."""
        if self._ingest is None:
            await asyncio.to_thread(ingest.instance, self._rt)
        found = ingest.instance(self._rt)
        if found is not self._ingest:
            self._ingest, self._kept, self._sync = found, 0, None
        return found

    async def _shared(self, end: int) -> None:
        """Return when everything before ``end`` is on disk; whoever comes while a sync runs shares the next.

        Raises:
            OSError: the disk failed; nobody may be told that the lines are kept.
        """
        assert self._ingest is not None
        while self._kept < end:
            if self._sync is None or self._sync.done():
                self._sync = asyncio.get_running_loop().run_in_executor(self._syncing, self._ingest.share)
            self._kept = max(self._kept, await asyncio.shield(self._sync))


async def deliver(request: Request, rt: Runtime, principal: Principal, *, index: str = "") -> Response:
    """Do `BulkDesk.deliver` for a route of the people door."""
    headers: dict[bytes, bytes] = dict(reversed(request.scope["headers"]))
    answer = await BulkDesk.of(rt).deliver(principal, request.stream(), headers, index=index)
    told = {name.decode(): value.decode() for name, value in answer.headers}
    return Response(answer.body if isinstance(answer.body, bytes) else b"", answer.status, told)


def _read_and_append(
    taking: ingest.Ingest, sender: Sender, body: Body, encoding: str, batch: str, index: str
) -> tuple[list[Item], int]:
    taking.check(sender)
    items = bulk.read(_plain(body.read(), encoding), default_index=index)
    return items, taking.append(sender, items, batch=batch)


def _rejected(reason: str, retry_after: int) -> MachineAnswer:
    cause = {"type": "es_rejected_execution_exception", "reason": reason}
    refused = {"error": {"root_cause": [cause], **cause}, "status": 429}
    return MachineAnswer(429, [*HEADERS, (b"retry-after", b"%d" % retry_after)], orjson.dumps(refused))


def _plain(body: bytes, encoding: str) -> bytes:
    """Undo the content encoding; all members of a gzip file count (RFC 1952 2.2).

    Raises:
        BulkRefused: it is another encoding, broken, or too large.
    """
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip"):
        raise bulk.BulkRefused(
            "illegal_argument_exception", f"content encoding [{encoding[:40]}] is not supported", 415
        )
    found, left = bytearray(), body
    while left:
        reader = zlib.decompressobj(wbits=31)
        try:
            found += reader.decompress(left, BODY + 1 - len(found))
        except zlib.error as error:
            raise bulk.BulkRefused("parse_exception", f"not gzip: {error}") from error
        if len(found) > BODY:
            raise bulk.BulkRefused(
                "content_too_long_exception", f"body is larger than {BODY} bytes after decompression", 413
            )
        if not reader.eof:
            raise bulk.BulkRefused("parse_exception", "the gzip stream is cut short")
        left = reader.unused_data.lstrip(b"\0")  # padding behind a member is none of it
    return bytes(found)


def _json(value: object, status: int) -> MachineAnswer:
    return MachineAnswer(status, HEADERS, orjson.dumps(value))
