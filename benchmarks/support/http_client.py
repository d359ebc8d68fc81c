"""A load client as a process of its own: sends requests prepared before over kept or fresh connections, and times each answer.

Its own CPU is not the measured one's, and it must not be the bottleneck: requests are finished bytes, answers are read by
length, a thread per connection mostly waits in OpenSSL. It is told what to do on standard input, one JSON line of
`Plan.document`; it connects, says ``ready``, starts at the next line, and prints one JSON line: seconds of each request
and the answers' bodies where wanted. `Load` is the caller's half of the same conversation.
"""

import base64
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Lane:
    """What one connection sends, in order.

    Attributes:
        requests: finished bytes.
        certificate: that it shows, if any; with its key.
        key: of the certificate.
        repeat: how often all of it is sent.
        source: the address that it comes from; the kernel chooses one for ``""``.
    """

    requests: list[bytes]
    certificate: Path | None = None
    key: Path | None = None
    repeat: int = 1
    source: str = ""


@dataclass(frozen=True)
class Plan:
    """Where to (http or https), by how many connections, kept alive or new for each request."""

    url: str
    root: Path
    lanes: list[Lane] = field(default_factory=list)
    fresh: bool = False
    bodies: bool = False

    def document(self) -> str:
        """Give the plan as one JSON line."""
        lanes = [
            {
                "requests": [base64.b64encode(request).decode() for request in lane.requests],
                "certificate": str(lane.certificate or ""),
                "key": str(lane.key or ""),
                "repeat": lane.repeat,
                "source": lane.source,
            }
            for lane in self.lanes
        ]
        at = urlsplit(self.url)
        words = {
            "host": at.hostname,
            "port": at.port,
            "root": str(self.root),
            "fresh": self.fresh,
            "plain": at.scheme == "http",
        }
        return json.dumps({**words, "bodies": self.bodies, "lanes": lanes})


def spread(requests: list[bytes], connections: int) -> list[Lane]:
    """Deal requests out to so many connections."""
    return [Lane(requests[place::connections]) for place in range(connections)]


class Load:
    """The client process: connected when entered, sends at `go`."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def __enter__(self) -> Self:
        """Start it and wait until its kept connections stand.

        Raises:
            RuntimeError: it could not connect.
        """
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._say(self.plan.document())
        self._hear("ready")
        return self

    def go(self) -> tuple[list[float], list[bytes]]:
        """Send everything; gives the seconds of each request and the bodies, in order of lanes.

        Raises:
            RuntimeError: a request was not answered with 200 or 201.
        """
        self._say("go")
        answer = json.loads(self._hear(""))
        return answer["seconds"], [base64.b64decode(body) for body in answer["bodies"]]

    def _say(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def _hear(self, start: str) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line.startswith(start) or not line:
            assert self.process.stderr
            self.process.kill()
            raise RuntimeError(f"the load client failed: {self.process.stderr.read()[-800:]}")
        return line

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()


class Connection:
    """One connection of the client."""

    def __init__(self, plan: dict[str, Any], lane: dict[str, Any], context: ssl.SSLContext | None) -> None:
        source = (lane["source"], 0) if lane["source"] else None
        raw = socket.create_connection((plan["host"], plan["port"]), timeout=120, source_address=source)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(raw, server_hostname=plan["host"]) if context else raw
        self.kept = plan["bodies"]

    def ask(self, request: bytes) -> bytes:
        """Send one request and read its answer; its body is given back where bodies are wanted, or it is chunked.

        Raises:
            RuntimeError: it is neither 200, 201 nor 206.
        """
        self.socket.sendall(request)
        got = b""
        while b"\r\n\r\n" not in got:
            got += self._more()
        head, _, body = got.partition(b"\r\n\r\n")
        fields = dict(line.split(b":", 1) for line in head.lower().split(b"\r\n")[1:])
        if b"content-length" in fields:
            left, parts = int(fields[b"content-length"]) - len(body), [body]
            while left > 0:
                part = self._more()
                left -= len(part)
                if self.kept:
                    parts.append(part)
            body = b"".join(parts)
        else:  # chunked, as step-ca answers; the client keeps it as it came
            while not body.endswith(b"0\r\n\r\n"):
                body += self._more()
        if head[9:12] not in {b"200", b"201", b"206"}:
            raise RuntimeError((head[:12] + b" " + body[:400]).decode(errors="replace"))
        return body

    def _more(self) -> bytes:
        part = self.socket.recv(1 << 18)
        if not part:
            raise RuntimeError("the server closed the connection")
        return part


def main() -> int:
    """Run one plan from standard input; returns 1 when a request failed."""
    plan = json.loads(sys.stdin.readline())
    lanes = plan["lanes"]
    contexts = [None if plan["plain"] else _context(plan, lane) for lane in lanes]
    opened = [
        None if plan["fresh"] else Connection(plan, lane, context)
        for lane, context in zip(lanes, contexts, strict=True)
    ]
    sending = [[base64.b64decode(text) for text in lane["requests"]] * lane["repeat"] for lane in lanes]
    seconds: list[list[float]] = [[] for _ in lanes]
    bodies: list[list[bytes]] = [[] for _ in lanes]
    faults: list[str] = []

    def one(place: int) -> None:
        try:
            for request in sending[place]:
                began = time.perf_counter()
                connection = opened[place] or Connection(plan, lanes[place], contexts[place])
                body = connection.ask(request)
                if plan["fresh"]:
                    connection.socket.close()
                seconds[place].append(time.perf_counter() - began)
                if plan["bodies"]:
                    bodies[place].append(body)
        except Exception as error:  # noqa: BLE001 - told to the caller, whose run it ends
            faults.append(f"{type(error).__name__}: {error}")

    print("ready", flush=True)
    sys.stdin.readline()
    threads = [threading.Thread(target=one, args=(place,)) for place in range(len(lanes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        print("\n".join(faults[:3]), file=sys.stderr)
        return 1
    answer = {
        "seconds": list(chain.from_iterable(seconds)),
        "bodies": [base64.b64encode(body).decode() for body in chain.from_iterable(bodies)],
    }
    print(json.dumps(answer), flush=True)
    return 0


def _context(plan: dict[str, Any], lane: dict[str, Any]) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=plan["root"])
    if lane["certificate"]:
        made.load_cert_chain(lane["certificate"], lane["key"])
    return made


if __name__ == "__main__":
    sys.exit(main())
