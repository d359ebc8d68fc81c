"""Rows of revocation lists: what a CRL of many entries costs all processes, and that nothing else grows with it.

The rows of revoked certificates are made in bulk. The signer runs alone, and ``lachan pki crl`` is the worker that has the
list made, stores it and puts it in force: the CPU of both counts, the command's start of Python included. First after the
signer's start (all rows are read), then after one more change (its page is read). Peers list a tenth as many entries, without a database:
the list builder of cryptography, and ``openssl ca -gencrl`` from an index file. Then everything is served: what the roles
use at rest, and what the status door uses to send the list.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from benchmarks.support import cpu
from benchmarks.support.installation import Installation
from benchmarks.support.rows import Rows
from benchmarks.support.table import Row
from benchmarks.support.yardstick import OURS

MANY, QUICK, FEW = 1_000_000, 100_000, 100
REST = 70.0  # seconds at rest: the recurring work of every minute is in it
ENTRIES = "entries per CPU-second"
BUILDER = """
import sys, datetime, os
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
key, now, day = ec.generate_private_key(ec.SECP256R1()), datetime.datetime(2026, 1, 1), datetime.timedelta(days=1)
name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "peer")])
why = x509.CRLReason(x509.ReasonFlags.superseded)
def entry():
    serial = int.from_bytes(os.urandom(16), "big") >> 2 | 1 << 126
    return x509.RevokedCertificateBuilder(serial, now, [x509.Extension(why.oid, False, why)]).build()
made = [entry() for _ in range(int(sys.argv[1]))]
x509.CertificateRevocationListBuilder(name, now, now + day, [], made).sign(key, hashes.SHA256()).public_bytes(
    __import__("cryptography.hazmat.primitives.serialization", fromlist=["x"]).Encoding.DER)
"""


def measure(*, postgres: bool, quick: bool, say: Callable[[str], None]) -> list[Row]:
    """Measure one database; ``quick`` lists a tenth, and looks at rest for a few seconds only."""
    count, database = QUICK if quick else MANY, "PostgreSQL" if postgres else "SQLite"
    size = f"10^{len(str(count)) - 1}"
    peers = _peers(count // 10)
    rest = 5.0 if quick else REST
    with Installation(OURS, postgres=postgres) as lab:
        lab.open()
        before = _rest(lab, rest)
        lab.close()
        say(f"{database}: {count} revoked certificates")
        revoke(lab, count)
        found = _lists(lab, count, f"{size}, {database}", peers)
        lab.open()
        say(f"{database}: at rest for {rest:.0f} s")
        after = _rest(lab, rest)
        for role in ("sign", "work", "doors"):
            name = f"idle {role} with {size} revoked, {database}"
            found.append(Row(name, after[role], "CPU-seconds a minute", "none revoked", before[role]))
        found.append(_served(lab, f"a CRL of {size} sent, {database}"))
    return found


def revoke(lab: Installation, count: int) -> None:
    """Make rows of revoked certificates in an installation that is not served; their own bytes are not kept."""
    rows = Rows(lab)
    if not rows.postgres:
        sa.event.listen(rows.engine, "connect", _in_a_hurry)
    serial = f"'4' || substr({rows.hex(16)}, 2)"
    since = (
        "to_timestamp(1735689600 + i)"
        if rows.postgres
        else "strftime('%Y-%m-%d %H:%M:%S.000000', 1735689600 + i, 'unixepoch')"
    )
    reasons = " ".join(
        f"WHEN {n} THEN '{word}'" for n, word in enumerate(("superseded", "key_compromise", "unspecified"))
    )
    rows.copy(
        "pki_certificates", "profile = 'firmware-signing'", 0, count, id=rows.hex(18), serial_number=serial,
        state="'revoked'", state_since=since, reason=f"CASE i % 3 {reasons} END",
        certificate="'\\x30'::bytea" if rows.postgres else "x'30'",
    )  # fmt: skip
    rows.checkpoint()


def _in_a_hurry(connection: Any, _record: object) -> None:
    """Millions of random keys in little time: nobody needs these rows after a power cut."""
    for pragma in ("synchronous=OFF", "cache_size=-1000000"):
        connection.execute(f"PRAGMA {pragma}")


def _lists(lab: Installation, count: int, name: str, peers: dict[str, float]) -> list[Row]:
    """A list of everything, and one after one more change, with the signer alone."""
    signer = subprocess.Popen(
        [str(lab.checkout.python), "-m", "lachan", "serve", "--role", "sign"], env=lab.env, cwd=lab.checkout.top,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _until((lab.data / "signer" / "signer.sock").exists)
        whole, most = _published(lab, signer.pid)
        _one_more(lab)
        again, _ = _published(lab, signer.pid)
        memory = _peak(signer.pid)
    finally:
        signer.terminate()
        signer.wait(60)
    return [
        Row(f"CRL of {name}", whole, "CPU-seconds"),
        *(Row(f"CRL of {name}, entries", count / whole, ENTRIES, peer, rate) for peer, rate in peers.items()),
        Row(f"CRL of {name}, after one more", again, "CPU-seconds"),
        Row(f"CRL of {name}, memory", max(memory, most), "MB, most of one process"),
    ]


def _published(lab: Installation, signer: int) -> tuple[float, float]:
    """CPU seconds of signer, command and PostgreSQL for one list, and the command's peak memory in MB."""
    roots = {"sign": signer, **({"postgresql": lab.cluster.pid} if lab.cluster else {})}
    before = sum(cpu.trees(roots).values())
    seconds, peak = _run([str(lab.checkout.python), "-m", "lachan", "pki", "crl"], lab.env, lab.checkout.top)
    return sum(cpu.trees(roots).values()) - before + seconds, peak


def _run(words: list[str], env: dict[str, str], where: Path) -> tuple[float, float]:
    """CPU seconds and peak memory (MB) of one command.

    Raises:
        RuntimeError: it failed.
    """
    process = subprocess.Popen(words, env=env, cwd=where, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr
    with process.stderr as said:
        text = said.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(words[:4])}: {text.decode('utf-8', 'replace')[-1500:]}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def _one_more(lab: Installation) -> None:
    """Change one certificate's state as `pki.revocation` does."""
    rows = Rows(lab)
    rows.run("INSERT INTO pki_revisions (authority, revision) VALUES ('issuing', 1)")
    one = "(SELECT min(serial_number) FROM pki_certificates WHERE state = 'revoked')"
    rows.run(f"UPDATE pki_certificates SET state = 'valid', reason = '', revision = 1 WHERE serial_number = {one}")


def _peers(count: int) -> dict[str, float]:
    """Entries per CPU-second of others that list ``count`` entries."""
    listed, _ = _run([sys.executable, "-c", BUILDER, str(count)], dict(os.environ), Path.cwd())
    found = {"cryptography's builder": count / listed}
    if shutil.which("openssl"):
        found["openssl ca -gencrl"] = count / _openssl(count)
    return found


def _openssl(count: int) -> float:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        config = "[ca]\ndefault_ca=c\n[c]\ndatabase=index\ndefault_md=sha256\ndefault_crl_days=1\ncrlnumber=number\n"
        (folder / "config").write_text(config)
        (folder / "number").write_text("01\n")
        key = [
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            "k",
            "-out",
            "c",
        ]
        _run(["openssl", *key, "-subj", "/CN=peer"], dict(os.environ), folder)
        line = "R\t270101000000Z\t260101000000Z,superseded\t{:032X}\tunknown\t/CN={}\n"
        (folder / "index").write_text("".join(line.format((1 << 126) + n * 7919, n) for n in range(count)))
        words = ["openssl", "ca", "-gencrl", "-config", "config", "-keyfile", "k", "-cert", "c", "-out", "crl"]
        return _run(words, dict(os.environ), folder)[0]


def _rest(lab: Installation, seconds: float) -> dict[str, float]:
    """CPU seconds a minute of each role at rest."""
    before, began = lab.cpu(), time.monotonic()
    time.sleep(seconds)
    after, passed = lab.cpu(), time.monotonic() - began
    return {role: (after[role] - before[role]) * 60 / passed for role in after}


def _served(lab: Installation, name: str) -> Row:
    """CPU of the doors for sending the list ten times; it is asked for once more with its tag."""
    with httpx.Client(base_url=lab.urls["status"], timeout=120) as client:
        answer = client.get("/crl/issuing.crl").raise_for_status()
        before, began = lab.cpu()["doors"], time.monotonic()
        for _ in range(10):
            client.get("/crl/issuing.crl")
        used = (lab.cpu()["doors"] - before) / 10
        known = client.get("/crl/issuing.crl", headers={"If-None-Match": answer.headers["ETag"]})
        note = f"{len(answer.content) / 1e6:.1f} MB each, {(time.monotonic() - began) / 10:.2f} s; {known.status_code} for who has it"
    return Row(name, used, "CPU-seconds of the doors", note=note)


def _peak(pid: int) -> float:
    """A living process's peak memory in MB."""
    line = next(one for one in Path(f"/proc/{pid}/status").read_text("ascii").splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _until(there: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not there():
        if time.monotonic() > end:
            raise TimeoutError("the signer did not start")
        time.sleep(0.05)
