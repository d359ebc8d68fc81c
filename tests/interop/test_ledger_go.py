"""A verifier we did not write: Go's golang.org/x/mod/sumdb accepts our checkpoint and proofs, and rejects forged ones."""

import json
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from lachan import events
from lachan.identity.principal import system
from lachan.ledger import sealer
from lachan.ledger.export import export
from lachan.runtime import Runtime
from lachan.work import outbox
from tests.ledger.forge import edit
from tests.support import need

HERE = Path(__file__).parent / "ledger_go"


@pytest.fixture
def verifier(tmp_path: Path) -> Path:
    """The Go program, built from source; its caches are kept between runs of the same user."""
    go = need.program("go", package="golang-go")
    caches = Path(tempfile.gettempdir()) / f"lachan-go-{os.getuid()}"
    caches.mkdir(mode=0o700, exist_ok=True)
    assert caches.stat().st_uid == os.getuid(), f"{caches} belongs to somebody else"
    program = tmp_path / "verify"
    environment = {
        **os.environ, "GOFLAGS": "-mod=readonly -buildvcs=false -modcacherw", "GOCACHE": str(caches / "build"),
        "GOMODCACHE": str(caches / "mod"), "GOWORK": "off", "GOTOOLCHAIN": "local",
    }  # fmt: skip
    built = subprocess.run(
        [go, "build", "-o", program, "."],
        cwd=HERE,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )
    if "dial tcp" in built.stderr or "no such host" in built.stderr:
        need.missing("needs golang.org/x/mod, and the Go module proxy cannot be reached")
    assert built.returncode == 0, built.stderr
    return program


def test_go_accepts_our_ledger_and_rejects_a_forged_one(ledger_rt: Runtime, verifier: Path, tmp_path: Path):
    folder = ledger_rt.settings.data / "ledger"

    def go(lines: list[bytes]) -> subprocess.CompletedProcess[str]:
        file = tmp_path / "export.ndjson"
        file.write_bytes(b"".join(lines))
        return subprocess.run([verifier, folder / "key", file], capture_output=True, text=True, check=False, timeout=60)

    for count in (1, 2, 70, 300):
        with ledger_rt.db.write() as connection:
            for i in range(count):
                outbox.append(connection, events.SignedIn(user=f"đinh-{i}"), actor=system("test"))
        size = sealer.seal_now(ledger_rt)
        good = list(export(ledger_rt))
        assert go(good).stdout == f"ok {size}\n"
    value = json.loads(good[100])
    for change in (
        {"body": value["body"].replace("system", "nobody")},
        {"index": value["index"] + 1},
        {"proof": value["proof"][:-1]},
        {"proof": [*value["proof"][:-1], value["proof"][0]]},
    ):
        answer = go(edit(good, 100, **change))
        assert answer.returncode != 0, change
        assert "ok" not in answer.stdout
    note = json.loads(good[0])["checkpoint"]
    forged = edit(good, 0, checkpoint=note.replace(f"\n{size}\n", f"\n{size - 1}\n"))
    assert "note has no verifiable signatures" in go(forged).stderr or "invalid signature" in go(forged).stderr
