"""The real three doors of an installation with a real authority, in a thread, and a client with any certificate."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from api import doors
from lachan.runtime import Runtime
from pki import service


@dataclass(frozen=True)
class Doors:
    """Open doors.

    Attributes:
        ports: door → port on localhost.
        folder: for the files that clients need.
        anchors: PEM file with root and issuing authority.
    """

    ports: dict[str, int]
    folder: Path
    anchors: Path

    def url(self, door: str) -> str:
        return f"{'http' if door == 'status' else 'https'}://localhost:{self.ports[door]}"

    def context(
        self, certificate: x509.Certificate | None = None, key: ec.EllipticCurvePrivateKey | None = None
    ) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.anchors))
        if certificate is not None and key is not None:
            file = self.folder / f"{certificate.serial_number:x}.pem"
            secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            file.write_bytes(certificate.public_bytes(Encoding.PEM) + secret)
            context.load_cert_chain(file)
        return context

    def client(
        self, certificate: x509.Certificate | None = None, key: ec.EllipticCurvePrivateKey | None = None
    ) -> httpx.Client:
        """A client of the device door."""
        return httpx.Client(base_url=self.url("device"), verify=self.context(certificate, key), timeout=20)


@contextmanager
def open_doors(rt: Runtime, folder: Path) -> Iterator[Doors]:
    """The doors of ``rt``, open until the end of the block."""
    folder.mkdir(exist_ok=True)
    sockets = {name: socket.create_server(("127.0.0.1", 0)) for name in ("people", "device", "status")}
    ports = {name: made.getsockname()[1] for name, made in sockets.items()}  # now: the doors take the sockets over
    stop, ready = threading.Event(), threading.Event()
    thread = threading.Thread(target=doors.main, args=(rt, sockets, stop, ready.set), name="doors")
    thread.start()
    anchors = folder / "anchors.pem"
    anchors.write_bytes(service.pem(*service.hierarchy(rt.db).chain))
    try:
        assert ready.wait(30)
        yield Doors(ports, folder, anchors)
    finally:
        stop.set()
        thread.join(30)
        for made in sockets.values():
            made.close()
