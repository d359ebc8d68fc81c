"""An HTTP peer that counts what it was asked to do, as the street furniture behind it would.

``/idempotent`` honours ``Idempotency-Key``: the same key again changes nothing. ``/counter`` does not: every request that
arrives is one more effect. ``/hook`` takes webhooks. Everything is kept in lists for the test to read.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Peer:
    """What arrived. ``answers`` maps a path to the statuses to give first, before 200; 429 and 503 say ``retry_after``."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.answers: dict[str, list[int]] = {}
        self.retry_after = ""

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def effects(self, device_id: str) -> tuple[int, int]:
        """How often the idempotent and the counting side were changed because of a device."""
        keys = {
            h["idempotency-key"]
            for path, h, body in self.requests
            if path == "/idempotent" and body["device"] == device_id
        }
        counter = [1 for path, _, body in self.requests if path == "/counter" and body["device"] == device_id]
        return len(keys), len(counter)

    def hooks(self) -> list[tuple[dict[str, str], Any]]:
        return [(headers, body) for path, headers, body in self.requests if path == "/hook"]


@contextmanager
def serving() -> Iterator[Peer]:
    """A peer on a free port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            peer.requests.append(
                (self.path, headers, raw.decode() if self.path == "/hook" else json.loads(raw or b"{}"))
            )
            waiting = peer.answers.get(self.path)
            status = waiting.pop(0) if waiting else 200
            if status == 0:  # takes the request and never answers
                self.close_connection = True
                return
            self.send_response(status)
            if status in {429, 503} and peer.retry_after:
                self.send_header("Retry-After", peer.retry_after)
            if status in {301, 302, 307}:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_DELETE = do_POST

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    peer = Peer(server.server_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield peer
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
