"""`SignerLink`: how code on an event loop asks for signatures, many with one frame.

One frame of a kind is under way; what is asked meanwhile is the next one. There is no timer, so that asking alone waits for
nobody; where one of the last four frames carried several requests, the next one leaves `TURNS` turns of the loop later, in which
those that are on their way arrive (a quarter less CPU a request with four connections). A frame takes one request of each sender in turn, so a flood of one leaves room for the others, and a sender has
at most `ROOM` requests waiting. A request is never sent twice: when the connection breaks under a frame, the outcome of its
requests is unknown and the signer's log decides (`lachan.signer.reconcile`). Limits: of one loop; a frame must be answered
within the time-out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path
from typing import Any

from lachan.signer import wire
from lachan.signer.client import result
from lachan.signer.dispatch import MOST
from lachan.signer.errors import BadFrame, SignerBusy, SignerUnavailable
from lachan.work.wake import reachable

ROOM = 256
TURNS = 4  # of the loop that a frame waits for company, where there was some: what is readable by then has joined
Asked = tuple[dict[str, Any], "asyncio.Future[dict[str, Any]]"]


class SignerLink:
    """Ask the signer from one event loop.

    Args:
        path: the signer's socket.
        timeout: seconds for connecting and for each frame's answer.
    """

    def __init__(self, path: Path, *, timeout: float = 5.0) -> None:
        self.path, self.timeout = path, timeout
        self._lanes: dict[str, _Lane] = {}

    async def request(self, kind: str, *, sender: str = "", **fields: Any) -> dict[str, Any]:
        """Ask for one signature.

        Args:
            kind: as in `lachan.signer.client.SignerClient.request`.
            sender: on whose behalf; senders take turns.
            fields: of the request.

        Raises:
            SignerRefused: the signer will not sign that.
            SignerBusy: it was asked for too many, or this sender has too many requests waiting.
            SignerUnavailable: it does not answer, or failed inside.
        """
        lane = self._lanes.get(kind)
        if lane is None:
            lane = self._lanes[kind] = _Lane(self, kind)
        return result(kind, await lane.put(sender, fields))

    async def close(self) -> None:
        """Hang up; what waits is told that the signer is unavailable."""
        for lane in self._lanes.values():
            await lane.close()


class _Lane(asyncio.Protocol):
    """The requests of one kind, on a connection of its own.

    A frame is written by a callback and its answer taken apart where it arrives: no task, and no turn of the loop more than
    the answer itself needs.
    """

    def __init__(self, link: SignerLink, kind: str) -> None:
        self._link, self._kind = link, kind
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, deque[Asked]] = {}
        self._batch: list[Asked] = []  # under way
        self._read = bytearray()
        self._transport: asyncio.WriteTransport | None = None
        self._opening: asyncio.Task[None] | None = None
        self._due = 0.0  # when the frame under way must be answered
        self._timer: asyncio.TimerHandle | None = None
        self._scheduled = False
        self._company = 0  # a bit for each of the last frames: whether it carried more than one

    def put(self, sender: str, fields: dict[str, Any]) -> asyncio.Future[dict[str, Any]]:
        """Queue a request; the future is of its answer."""
        queue = self._waiting.get(sender)
        if queue is None:
            queue = self._waiting[sender] = deque()
        elif len(queue) >= ROOM:
            reason = "this sender has too many requests waiting"
            raise SignerBusy(reason, kind=self._kind, reason=reason, retry_after=1)
        future: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        queue.append((fields, future))
        self._soon()
        return future

    async def close(self) -> None:
        """End the connection; who waits is told."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        error = SignerUnavailable("The way to the signer was closed.")
        for queue in self._waiting.values():
            _fail(list(queue), error)
        self._waiting.clear()
        self._break(error)

    def _soon(self) -> None:
        """Send at the end of this turn of the loop, with what it still brings, unless a frame is under way."""
        if not (self._scheduled or self._batch or self._opening):
            self._scheduled = True
            self._loop.call_soon(self._linger, TURNS if self._company else 0)

    def _linger(self, turns: int) -> None:
        if turns:
            self._loop.call_soon(self._linger, turns - 1)
        else:
            self._scheduled = False
            self._send()

    def _send(self) -> None:
        if not self._waiting or self._batch or self._opening:
            return
        self._batch = self._take()
        self._company = self._company >> 1 | (len(self._batch) > 1) << 3
        self._due = self._loop.time() + self._link.timeout
        if self._timer is None:
            self._timer = self._loop.call_at(self._due, self._late)
        if self._transport is None:
            self._opening = self._loop.create_task(self._open())
        else:
            self._write(self._transport)

    async def _open(self) -> None:
        """Connect, then write the frame that waits for it."""
        try:
            with reachable(self._link.path) as name:
                transport, _ = await self._loop.create_unix_connection(lambda: self, name)
        except OSError as error:
            self._opening = None
            self._break(self._unanswered(error))
            return
        except BaseException:
            self._opening = None
            self._break(SignerUnavailable("The way to the signer was closed."))
            raise
        self._opening, self._transport = None, transport
        if self._batch:  # else it came too late
            self._write(transport)
        else:
            self._soon()

    def _write(self, transport: asyncio.WriteTransport) -> None:
        try:
            transport.write(wire.pack({"kind": self._kind, "items": [fields for fields, _ in self._batch]}))
        except (BadFrame, TypeError) as error:
            self._break(self._unanswered(error))

    def data_received(self, data: bytes) -> None:
        """Take what arrives; a whole frame is the answer to the one under way."""
        self._read += data
        try:
            if len(self._read) < wire.HEAD:
                return
            size = wire.HEAD + wire.length(bytes(self._read[: wire.HEAD]))
            if len(self._read) < size:
                return
            message = wire.unpack(bytes(self._read[wire.HEAD : size]))
            del self._read[:size]
            answers = message.get("items")
            if not isinstance(answers, list) or len(answers) != len(self._batch) or self._read:
                raise BadFrame("The signer answered something else than it was asked.")
        except BadFrame as error:
            self._break(self._unanswered(error))
            return
        batch, self._batch = self._batch, []
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)
        if self._waiting:
            self._soon()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the signer hung up; what was under way has an unknown outcome, what waits goes to the next connection."""
        if self._transport is not None:
            self._break(self._unanswered(exc or EOFError("it hung up")))

    def _late(self) -> None:
        self._timer = None
        if not self._batch:
            return
        if self._loop.time() < self._due:  # of a later frame than the timer was set for
            self._timer = self._loop.call_at(self._due, self._late)
            return
        self._break(self._unanswered(TimeoutError("in time")))

    def _break(self, error: SignerUnavailable) -> None:
        """Fail the frame under way and let go of the connection; what waits is sent on the next one."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        self._read.clear()
        batch, self._batch = self._batch, []
        _fail(batch, error)
        if self._waiting:
            self._soon()
        elif self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _unanswered(self, error: BaseException) -> SignerUnavailable:
        return SignerUnavailable(f"The signer at {self._link.path} did not answer: {error!r}")

    def _take(self) -> list[Asked]:
        """One request of each sender in turn, until the frame is full."""
        batch: list[Asked] = []
        while self._waiting and len(batch) < MOST:
            sender = next(iter(self._waiting))
            queue = self._waiting.pop(sender)
            batch.append(queue.popleft())
            if queue:
                self._waiting[sender] = queue  # behind the others
        return batch


def _fail(batch: list[Asked], error: SignerUnavailable) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
