"""`SignerLink`: how code on an event loop asks for signatures, many with one frame.

One frame of a kind is under way; what is asked meanwhile is the next one. There is no timer, so that asking alone waits for
nobody. A frame takes one request of each sender in turn, so a flood of one leaves room for the others, and a sender has
at most `ROOM` requests waiting. A request is never sent twice: when the connection breaks under a frame, the outcome of its
requests is unknown and the signer's log decides (`lachan.signer.reconcile`). Limits: of one loop; a frame must be answered
within the time-out.
"""

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
Asked = tuple[dict[str, Any], "asyncio.Future[dict[str, Any]]"]
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


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


class _Lane:
    """The requests of one kind."""

    def __init__(self, link: SignerLink, kind: str) -> None:
        self._link, self._kind = link, kind
        self._waiting: dict[str, deque[Asked]] = {}
        self._stream: Stream | None = None
        self._task: asyncio.Task[None] | None = None

    def put(self, sender: str, fields: dict[str, Any]) -> "asyncio.Future[dict[str, Any]]":
        """Queue a request; the future is of its answer."""
        queue = self._waiting.setdefault(sender, deque())
        if len(queue) >= ROOM:
            reason = "this sender has too many requests waiting"
            raise SignerBusy(reason, kind=self._kind, reason=reason, retry_after=1)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        queue.append((fields, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return future

    async def close(self) -> None:
        """End the task and the connection."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        error = SignerUnavailable("The way to the signer was closed.")
        for queue in self._waiting.values():
            _fail(list(queue), error)
        self._waiting.clear()
        self._drop()

    async def _run(self) -> None:
        while self._waiting:
            batch = self._take()
            try:
                async with asyncio.timeout(self._link.timeout):
                    answers = await self._exchange([fields for fields, _ in batch])
            except (OSError, BadFrame, TimeoutError, asyncio.IncompleteReadError) as error:
                self._drop()
                _fail(batch, SignerUnavailable(f"The signer at {self._link.path} did not answer: {error!r}"))
                continue
            except BaseException:
                self._drop()
                _fail(batch, SignerUnavailable("The way to the signer was closed."))
                raise
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

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

    async def _exchange(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if self._stream is None or self._stream[0].at_eof():
            self._drop()
            with reachable(self._link.path) as name:
                self._stream = await asyncio.open_unix_connection(name)
        reader, writer = self._stream
        writer.write(wire.pack({"kind": self._kind, "items": items}))
        length = wire.length(await reader.readexactly(wire.HEAD))
        message = wire.unpack(await reader.readexactly(length))
        answers = message.get("items")
        if not isinstance(answers, list) or len(answers) != len(items):
            raise BadFrame("The signer answered something else than it was asked.")
        return answers

    def _drop(self) -> None:
        if self._stream is not None:
            self._stream[1].close()
            self._stream = None


def _fail(batch: list[Asked], error: SignerUnavailable) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
