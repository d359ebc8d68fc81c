"""step-ca, the peer for issuing: built once into the cache, given a hierarchy and a token key of ours, loaded over TLS.

Its JWK one-time token stands beside our one-time secret: checked, and good once (the spent one is a durable row). Database:
badgerv2 (its default, synchronous writes) or PostgreSQL in a cluster of its own, whose CPU is counted with it.
"""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import httpx
import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from benchmarks.support import cpu
from benchmarks.support.est import csr, new_key, request
from benchmarks.support.postgres import Cluster
from benchmarks.support.yardstick import CACHE

VERSION = "0.30.2"
MODULE = f"github.com/smallstep/certificates/cmd/step-ca@v{VERSION}"
PROVISIONER, KID = "bench", "bench"


def program(*, make: bool = True) -> Path | None:
    """Give the binary, built on first use (some minutes); None without Go, or when ``make`` is false and it is not there."""
    found = CACHE / f"step-ca-{VERSION}" / "step-ca"
    if found.exists():
        return found
    go = shutil.which("go") or ("/usr/local/go/bin/go" if Path("/usr/local/go/bin/go").exists() else None)
    if not make or go is None:
        return None
    print(f"building step-ca {VERSION} (once, some minutes)", file=sys.stderr)
    built = {"GOBIN": str(found.parent), "GOPATH": str(CACHE / "go"), "GOFLAGS": "-modcacherw", "CGO_ENABLED": "0"}
    subprocess.run([go, "install", MODULE], env=os.environ | built | {"GOTOOLCHAIN": "local"}, check=True)
    subprocess.run([go, "clean", "-modcache"], env=os.environ | built, check=False)
    return found


class StepCa:
    """One served step-ca."""

    def __init__(self, binary: Path, *, postgres: bool = False) -> None:
        self.binary = binary
        self.folder = Path(tempfile.mkdtemp(prefix="lbs-"))
        self.cluster = Cluster() if postgres else None
        self.root = self.folder / "root.crt"
        self.key = new_key()
        self.process: subprocess.Popen[bytes] | None = None
        self.idle = 0.02

    def __enter__(self) -> Self:
        """Write its configuration, start it, wait until it is healthy.

        Raises:
            TimeoutError: it was not within half a minute.
        """
        database: dict[str, Any] = {"type": "badgerv2", "dataSource": str(self.folder / "db")}
        if self.cluster:
            self.cluster.start("stepca")
            source = f"postgresql://lachan@127.0.0.1:{self.cluster.port}/"
            database = {"type": "postgresql", "dataSource": source, "database": "stepca"}
        self._hierarchy()
        port = Cluster.free_port()
        self.url = f"https://localhost:{port}"
        numbers = self.key.public_key().public_numbers()
        public = {"kty": "EC", "crv": "P-256", "kid": KID, "alg": "ES256", "use": "sig",
                  "x": _b64(numbers.x.to_bytes(32, "big")), "y": _b64(numbers.y.to_bytes(32, "big"))}  # fmt: skip
        words = {
            "root": str(self.root), "crt": str(self.folder / "issuing.crt"), "key": str(self.folder / "issuing.key"),
            "address": f"127.0.0.1:{port}", "dnsNames": ["localhost"], "logger": {"format": "json"}, "db": database,
            "authority": {"provisioners": [{"type": "JWK", "name": PROVISIONER, "key": public}]},
        }  # fmt: skip
        (self.folder / "ca.json").write_text(json.dumps(words))
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [str(self.binary), str(self.folder / "ca.json")], stdout=subprocess.DEVNULL, stderr=log,
                env=os.environ | {"STEPPATH": str(self.folder)},
            )  # fmt: skip
        end = time.monotonic() + 30
        while not self._healthy():
            if time.monotonic() > end or self.process.poll() is not None:
                self.__exit__(None)
                raise TimeoutError("step-ca does not start")
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        """End it by its process id."""
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.cluster:
            self.cluster.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", verify=False, timeout=2).status_code == 200  # nothing secret is sent
        except httpx.HTTPError:
            return False

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of step-ca and of its PostgreSQL."""
        assert self.process
        return {"step-ca": self.process.pid} | ({"postgresql": self.cluster.pid} if self.cluster else {})

    def total(self) -> float:
        """CPU seconds of all its processes so far."""
        return cpu.total(self.pids)

    def settle(self) -> None:
        """Wait until it is at rest."""
        cpu.quiet(self.pids, idle=self.idle)

    def requests(self, count: int) -> list[bytes]:
        """Make so many ``/1.0/sign`` requests, each with a token of its own (step-ca refuses one older than its start)."""
        made = []
        now = int(time.time())
        for _ in range(count):
            name = f"d{uuid.uuid4().hex}"
            claims = {"iss": PROVISIONER, "aud": f"{self.url}/1.0/sign", "sub": name, "sans": [name], "iat": now,
                      "nbf": now, "exp": now + 7200, "jti": uuid.uuid4().hex}  # fmt: skip
            token = jwt.encode(claims, self.key, algorithm="ES256", headers={"kid": KID})
            pem = csr(name, new_key()).public_bytes(Encoding.PEM).decode()
            body = json.dumps({"csr": pem, "ott": token}).encode()
            made.append(request("/1.0/sign", "application/json", body))
        return made

    def _hierarchy(self) -> None:
        top, below = new_key(), new_key()
        root = _authority("Bench root", top, top, "Bench root", path=1)
        issuing = _authority("Bench issuing", below, top, "Bench root", path=0)
        self.root.write_bytes(root.public_bytes(Encoding.PEM))
        (self.folder / "issuing.crt").write_bytes(issuing.public_bytes(Encoding.PEM))
        private = below.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (self.folder / "issuing.key").write_bytes(private)


def _authority(
    name: str, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey, issuer: str, *, path: int
) -> x509.Certificate:
    now = datetime.now(UTC)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=path), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )


def _b64(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()
