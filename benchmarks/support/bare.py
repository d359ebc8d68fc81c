"""The least that a cut can cost: something is written to stay, and somebody is told over loopback TLS."""

import os
import socket
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from benchmarks.support import est
from benchmarks.support.street import Seen


def floor(folder: Path, samples: int) -> Seen:
    """Measure an fsync of 4 KiB and one round trip over a kept TLS connection, one after the other."""
    file = folder / "floor.pem"
    file.write_bytes(_certificate())
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    client = ssl.create_default_context(cafile=str(file))
    listening = socket.create_server(("127.0.0.1", 0))

    def echo() -> None:
        with server.wrap_socket(listening.accept()[0], server_side=True) as one:
            while part := one.recv(100):
                one.sendall(part)

    thread = threading.Thread(target=echo)
    thread.start()
    seen = Seen()
    own = client.wrap_socket(socket.create_connection(listening.getsockname()), server_hostname="localhost")
    with own, (folder / "kept").open("wb") as kept:
        for _ in range(samples):
            began = time.perf_counter()
            kept.write(b"\0" * 4096)
            kept.flush()
            os.fsync(kept.fileno())
            own.sendall(b"?")
            own.recv(100)
            seen.seconds.append(time.perf_counter() - began)
    thread.join()
    listening.close()
    return seen


def _certificate() -> bytes:
    key, name, now = est.new_key(), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
