"""Whole files as answers, straight from the page cache: for what is too large to be read into memory for each caller."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

CHUNK = 1 << 18


class MappedFile(Response):
    """A file, mapped when the answer is made and sent in pieces as fast as the caller takes them.

    A file that is deleted or replaced meanwhile is still sent whole. Limits: no ranges; the event loop waits for the disk
    when a page is not in memory.

    Raises:
        FileNotFoundError: there is no such file.
    """

    def __init__(self, path: Path, *, headers: Mapping[str, str], media_type: str) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        super().__init__(None, headers={**headers, "Content-Length": str(len(self._map))}, media_type=media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send head and pieces; a caller that hangs up ends it."""
        with self._map as content:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for start in range(0, len(content), CHUNK):
                piece = content[start : start + CHUNK]
                await send({"type": "http.response.body", "body": piece, "more_body": start + CHUNK < len(content)})


def knows(if_none_match: str, tag: str) -> bool:
    """Tell whether a caller has the version with this strong entity tag already (RFC 9110 13.1.2, compared weakly)."""
    tags = [one.strip().removeprefix("W/") for one in if_none_match.split(",")]
    return tag in tags or "*" in tags
