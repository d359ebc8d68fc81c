"""A camera of the demo: a process and a key of its own, knowing only its door's address and the city's root certificate.

It is told what to do on standard input, one JSON object a line, and answers each with one line. It enrols over EST (RFC
7030) with its one-time secret, renews by mutual TLS, polls for firmware and verifies it as a device would (TUF by python-tuf,
the detached CMS by ``openssl``), sends its log lines to ``_bulk``, and can hold a connection open to see
the moment it is cut. Limits: it is a program, not a camera; its web page for the posture probes says so.
"""

import argparse
import base64
import hashlib
import http.client
import http.server
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import NameOID

POLL = "/device/v1/firmware"
TRIES = 3
UPDATER = Path(__file__).parents[2] / "examples" / "firmware_client.py"


class DemoDevice:
    """The camera's state: its folder with key and certificate, and its ways to the door."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.name: str = args.name
        self.folder = Path(args.folder)
        self.root = args.root
        self.tuf_root = args.tuf_root
        self.door = urlsplit(args.door)
        self.key = self.folder / "device.key"
        self.certificate = self.folder / "device.pem"
        self.watch: Watch | None = None
        self.page: CameraPage | None = None
        self.heartbeat: Any = None
        self.resumable: tuple[ssl.SSLContext, ssl.SSLSession | None] | None = None

    def context(self, *, certificate: bool = True) -> ssl.SSLContext:
        """TLS towards the door, with the camera's own certificate if it has one."""
        made = ssl.create_default_context(cafile=self.root)
        if certificate and self.certificate.exists():
            made.load_cert_chain(self.certificate, self.key)
        return made

    def connect(self, *, certificate: bool = True) -> http.client.HTTPSConnection:
        """Give a new connection to the device door."""
        context = self.context(certificate=certificate)
        return http.client.HTTPSConnection(self.door.hostname or "", self.door.port, context=context, timeout=20)

    def send(
        self, method: str, path: str, body: bytes | None = None, *, certificate: bool = True, **headers: str
    ) -> tuple[int, bytes]:
        """One request on a connection of its own; made again if that was closed before any answer, as clients do.

        A door closes a device's connections when the decision about it changes, also one that was just opened.
        """
        names = {key.replace("_", "-"): value for key, value in headers.items()}
        for attempt in range(TRIES):
            connection = self.connect(certificate=certificate)
            try:
                connection.request(method, path, body, names)
                answer = connection.getresponse()
                return answer.status, answer.read()
            except (ConnectionError, ssl.SSLEOFError):
                if attempt == TRIES - 1:
                    raise
            finally:
                connection.close()
        raise AssertionError("unreachable")

    def enrol(
        self, secret: str = "", *, keep_key: bool = False, renew: bool = False, save: bool = True
    ) -> dict[str, Any]:
        """Ask for a certificate: first with the one-time secret, later (``renew``) by mutual TLS."""
        if keep_key and self.key.exists():
            key = serialization.load_pem_private_key(self.key.read_bytes(), None)
            assert isinstance(key, ec.EllipticCurvePrivateKey)
        else:
            key = ec.generate_private_key(ec.SECP256R1())
        headers = {"Content_Type": "application/pkcs10", "Content_Transfer_Encoding": "base64"}
        if not renew:
            word = base64.b64encode(f"{self.name}:{secret}".encode()).decode()
            headers["Authorization"] = f"Basic {word}"
        path = f"/.well-known/est/{'simplereenroll' if renew else 'simpleenroll'}"
        status, body = self.send("POST", path, self._request(key, renew), certificate=renew, **headers)
        if status != 200:
            return {"ok": False, "status": status, "error": body.decode(errors="replace")[:300]}
        certificates = pkcs7.load_der_pkcs7_certificates(base64.b64decode(body))
        if save:
            pem = serialization.Encoding.PEM
            private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            self.key.write_bytes(private)
            self.key.chmod(0o600)
            issuers = self._issuers()
            self.certificate.write_bytes(b"".join(c.public_bytes(pem) for c in (*certificates, *issuers)))
        return {"ok": True, "serial_number": f"{certificates[0].serial_number:x}", "status": status}

    def _issuers(self) -> list[x509.Certificate]:
        status, body = self.send("GET", "/.well-known/est/cacerts", certificate=False)
        assert status == 200, body
        found = pkcs7.load_der_pkcs7_certificates(base64.b64decode(body))
        return [c for c in found if c.subject != c.issuer]

    def _request(self, key: ec.EllipticCurvePrivateKey, renew: bool) -> bytes:
        builder = x509.CertificateSigningRequestBuilder()
        if renew:  # RFC 7030 4.2.2: the same subject and alternative names as the certificate in use
            current = x509.load_pem_x509_certificate(self.certificate.read_bytes())
            names = current.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            builder = builder.subject_name(current.subject).add_extension(names.value, critical=names.critical)
        else:
            builder = builder.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)]))
        request = builder.sign(key, hashes.SHA256())
        return base64.b64encode(request.public_bytes(serialization.Encoding.DER))

    def bulk(self, lines: str) -> dict[str, Any]:
        """Send log lines in the form of Elasticsearch's ``_bulk``."""
        status, body = self.send("POST", "/_bulk", lines.encode(), Content_Type="application/x-ndjson")
        answer = json.loads(body) if status == 200 else {}
        ok = status == 200 and answer.get("errors") is False
        text = "" if ok else body.decode(errors="replace")[:300]
        return {"ok": ok, "status": status, "items": len(answer.get("items", ())), "sent": time.time(), "error": text}

    def update(self) -> dict[str, Any]:
        """One round of the update client that manufacturers are given (``examples/firmware_client.py``)."""
        if not UPDATER.exists():
            return {"ok": False, "error": "examples/firmware_client.py is not here: the demo runs from a checkout"}
        state = self.folder / "update"
        state.mkdir(exist_ok=True)
        words = {
            "server": self.door.geturl(), "ca": self.root, "cert": self.certificate, "key": self.key,
            "tuf-root": self.tuf_root, "firmware-root": self.root, "state": state,
            "install": self.folder / "firmware.bin",
        }  # fmt: skip
        command = [sys.executable, str(UPDATER), *(str(w) for key, value in words.items() for w in (f"--{key}", value))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return {"ok": False, "error": (done.stdout + done.stderr).strip()[-600:]}
        return {"ok": True, **json.loads(done.stdout)}

    def watched(self) -> dict[str, Any]:
        """Hold one connection open, asking again and again; what changed is told by ``seen``."""
        self.watch = Watch(self)
        self.watch.start()
        return {"ok": True}

    def seen(self) -> dict[str, Any]:
        """Tell what the watch saw: (seconds since the epoch, status or ``closed``), one entry per change."""
        assert self.watch
        return {"ok": True, "changes": list(self.watch.changes)}

    def resume(self) -> dict[str, Any]:
        """Offer the session of an earlier handshake again: a resumed session is a new request for the door."""
        context, earlier = self.resumable or (self.context(), None)
        address = (self.door.hostname or "", self.door.port or 443)

        def request(session: ssl.SSLSession | None) -> tuple[int, bool, ssl.SSLSession | None]:
            with socket.create_connection(address, timeout=20) as raw:
                tls = context.wrap_socket(raw, server_hostname=address[0], session=session)
                tls.sendall(f"GET {POLL} HTTP/1.1\r\nHost: {address[0]}\r\nConnection: close\r\n\r\n".encode())
                answer = b""
                while part := tls.recv(65536):
                    answer += part
                if not answer:
                    raise ConnectionResetError("closed before any answer")
                return int(answer.split()[1]), bool(tls.session_reused), tls.session

        try:
            status, reused, session = request(earlier)
        except ConnectionError:
            status, reused, session = request(earlier)
        self.resumable = (context, session)
        return {"ok": True, "status": status, "reused": reused}

    def serve_page(self, weak: bool) -> dict[str, Any]:
        """Open the camera's own web page (for the posture probes); a weak one takes admin/admin."""
        self.page = CameraPage(weak, self.folder)
        return {"ok": True, "port": self.page.port}

    def mqtt(self, port: int, password: str) -> dict[str, Any]:
        """Keep a connection to the city's broker and beat on it; what became of it is told by ``mqtt_seen``."""
        from lachan.demo.heartbeat import Heartbeat

        self.heartbeat = Heartbeat(self.name, port=port, password=password)
        self.heartbeat.start()
        return {"ok": True}


class Watch(threading.Thread):
    """One connection held open and used without a pause, to see when it is cut."""

    def __init__(self, device: DemoDevice) -> None:
        super().__init__(daemon=True)
        self.device = device
        self.changes: list[tuple[float, str]] = []
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End the watch."""
        self._stopped.set()
        self.join()

    def run(self) -> None:
        """Ask on one connection; when it is closed, on a new one, until it is stopped."""
        connection: http.client.HTTPSConnection | None = None
        while not self._stopped.is_set():
            try:
                connection = connection or self.device.connect()
                connection.request("GET", POLL)
                answer = connection.getresponse()
                answer.read()
                state = str(answer.status)
                if answer.will_close:
                    connection.close()
                    connection = None
            except (OSError, http.client.HTTPException):
                state, connection = "closed", None
            if not self.changes or self.changes[-1][1] != state:
                self.changes.append((time.time(), state))
            self._stopped.wait(0.005 if state != "closed" else 0.02)


class CameraPage:
    """The camera's web page; ``weak`` is what a careless maker ships: plain HTTP and admin/admin.

    The other one speaks TLS 1.2 or newer only and has a password of its own.
    """

    def __init__(self, weak: bool, folder: Path) -> None:
        expected = "admin:admin" if weak else hashlib.sha256(time.time_ns().to_bytes(8, "big")).hexdigest()
        wanted = f"Basic {base64.b64encode(expected.encode()).decode()}"

        class Handler(http.server.BaseHTTPRequestHandler):
            """Basic authentication in front of one line of text."""

            def do_GET(self) -> None:
                """Answer the page to who may see it."""
                allowed = self.headers.get("Authorization") == wanted
                self.send_response(200 if allowed else 401)
                if not allowed:
                    self.send_header("WWW-Authenticate", 'Basic realm="camera"')
                body = b"demo camera\n"
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def version_string(self) -> str:
                """Tell what the ``Server`` header tells: the careful one names no version."""
                return super().version_string() if weak else "camera"

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
                """Stay silent."""

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if not weak:
            server.socket = _own_tls(folder).wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()


def _own_tls(folder: Path) -> ssl.SSLContext:
    """TLS for the camera's page, with a certificate that it made itself, as cameras do before anybody gives them one."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "camera")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = (
        made.serial_number(x509.random_serial_number()).not_valid_before(now).not_valid_after(now + timedelta(days=365))
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = folder / "page.pem"
    file.write_bytes(private + made.sign(key, hashes.SHA256()).public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(file)
    return context


def main() -> None:
    """Answer commands until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    for word in ("name", "folder", "door", "root", "tuf-root"):
        parser.add_argument(f"--{word}", required=True)
    device = DemoDevice(parser.parse_args())
    commands: dict[str, Callable[..., dict[str, Any]]] = {
        "enrol": device.enrol, "bulk": device.bulk, "update": device.update, "watch": device.watched,
        "seen": device.seen, "resume": device.resume, "page": device.serve_page, "ask": lambda: _status(device),
        "mqtt": device.mqtt, "mqtt_seen": lambda: {"ok": True, **device.heartbeat.seen()},
    }  # fmt: skip
    for line in sys.stdin:
        words = json.loads(line)
        try:
            answer = commands[words.pop("do")](**words)
        except (OSError, http.client.HTTPException, ssl.SSLError) as error:
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


def _status(device: DemoDevice) -> dict[str, Any]:
    status, body = device.send("GET", POLL)
    return {"ok": True, "status": status, "body": body.decode(errors="replace")[:400]}


if __name__ == "__main__":
    main()
