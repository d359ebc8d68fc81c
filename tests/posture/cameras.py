"""Cameras to be judged: a bad one and a good one, in threads, on free ports of 127.0.0.1.

A tutorial. What makes a camera *bad* here are the faults that people really ship, and each is one class attribute below:
a factory password that still works (``admin``/``admin``, by HTTP Basic, without TLS), a web server that tells its version,
a directory that lists its files, and a backup that anybody may fetch. The *good* one speaks HTTPS only, from TLS 1.2 on,
asks by Digest with SHA-256 (RFC 7616), and names nothing. Both count what reached them: ``requests`` lists each request
line with its ``Authorization`` scheme, and ``connections`` counts the TCP connections accepted, so that a test can
say "no packet came" by looking at the peer instead of trusting the sender.

    camera = BadCamera.start()
    ...
    assert camera.connections == 0
    camera.stop()

`openssl s_server` plays the servers that Python can no longer be: `s_server` starts one with TLS 1.0 or weak suites.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import socket
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from tests.support import wait


class Camera(ThreadingHTTPServer):
    """The common part: counts connections and requests, stops by itself."""

    daemon_threads = True
    allow_reuse_address = True
    scheme = "http"

    def __init__(self, handler: type[BaseHTTPRequestHandler], context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.context = context
        self.connections = 0
        self.requests: list[tuple[str, str]] = []
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def get_request(self) -> tuple[Any, Any]:
        sock, address = super().get_request()
        self.connections += 1
        sock.settimeout(5)
        return sock, address

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.context is not None:
            try:
                request = self.context.wrap_socket(request, server_side=True)
            except OSError:
                return
        try:
            super().finish_request(request, client_address)
        finally:
            if self.context is not None:
                request.close()

    def handle_error(self, *_: object) -> None:
        """Probes hang up in the middle; that is no news."""

    def stop(self) -> None:
        self.shutdown()
        self.thread.join(5)
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    """What both cameras' handlers share."""

    protocol_version = "HTTP/1.1"
    pages: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        said = self.headers.get("Authorization", "")
        self.server.requests.append((self.requestline, said.partition(" ")[0]))  # type: ignore[attr-defined]
        if self.path in self.pages:
            self.answer(200, self.pages[self.path])
        elif self.path != "/":
            self.answer(404, b"no")
        elif self.admitted(said):
            self.answer(200, b"<title>camera</title>")
        else:
            self.answer(401, b"", **{"WWW-Authenticate": self.challenge()})

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response_only(status)
        if self.version_string():
            self.send_header("Server", self.version_string())
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def admitted(self, said: str) -> bool:
        raise NotImplementedError

    def challenge(self) -> str:
        raise NotImplementedError

    def log_message(self, *_: object) -> None:
        pass


class BadHandler(Handler):
    """Every planted fault, one a line."""

    user, password = "admin", "admin"
    pages: ClassVar[dict[str, bytes]] = {
        "/backup/": b"<html><title>Index of /backup/</title><a href=config.bak>config.bak</a>",
        "/backup/config.bak": b"hostname=cam\nadmin_password=hunter2\nwifi_psk: sesame\n",
    }

    def version_string(self) -> str:
        return "CamHTTPd/1.0.3"

    def challenge(self) -> str:
        return 'Basic realm="camera"'

    def admitted(self, said: str) -> bool:
        return said == "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


class ChangedHandler(BadHandler):
    """The bad camera after somebody set a password."""

    password = "a password of its own"


class GoodHandler(Handler):
    """Digest with SHA-256, own password, nothing told."""

    def version_string(self) -> str:
        return ""

    def challenge(self) -> str:
        return f'Digest realm="camera", qop="auth", algorithm=SHA-256, nonce="{secrets.token_hex(8)}"'

    def admitted(self, said: str) -> bool:
        return digest_fits(said, user="an", password="a password of its own")


class BadCamera(Camera):
    """HTTP only, with the faults of `BadHandler`."""

    @classmethod
    def start(cls, handler: type[BaseHTTPRequestHandler] = BadHandler) -> BadCamera:
        return cls(handler)


class GoodCamera(Camera):
    """HTTPS only, TLS 1.2 and 1.3."""

    @classmethod
    def start(cls, certificate: Path, key: Path) -> GoodCamera:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
        context.load_cert_chain(certificate, key)
        return cls(GoodHandler, context)


def digest_fits(said: str, *, user: str, password: str) -> bool:
    """Check a Digest answer with SHA-256 the server's way (RFC 7616 3.4.1)."""
    given = dict(re.findall(r'(\w+)="?([^",]+)"?', said.partition(" ")[2]))
    if not said.startswith("Digest ") or given.get("username") != user:
        return False

    def hexed(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()

    first, second = hexed(f"{user}:{given['realm']}:{password}"), hexed("GET:/")
    middle = f"{given['nonce']}:{given['nc']}:{given['cnonce']}:{given['qop']}"
    return given["response"] == hexed(f"{first}:{middle}:{second}")


def make_certificate(
    folder: Path, *, name: str = "camera", key: str = "ec", days: int = 30, digest: str = "sha256"
) -> Path:
    """A self-signed certificate and its key as PEM files; the path of the certificate (the key ends in ``.key``)."""
    kind = ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"] if key == "ec" else [f"rsa:{key}"]
    path = folder / f"{name}.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", *kind, "-nodes", "-keyout", path.with_suffix(".key"), "-out", path,
         f"-{digest}", "-days", str(days), "-subj", f"/CN={name}"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return path


class SServer:
    """`openssl s_server` on a free port, ended by its own pid."""

    def __init__(self, certificate: Path, *options: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.process = subprocess.Popen(
            ["openssl", "s_server", "-accept", f"127.0.0.1:{self.port}", "-cert", certificate,
             "-key", certificate.with_suffix(".key"), "-quiet", "-www", *options],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait.until(self._listens, timeout=10)

    def _listens(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"openssl s_server ended with {self.process.returncode}")
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=10)
