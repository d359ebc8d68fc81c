"""What it costs to publish firmware for a whole city with the update framework, and what one device has to fetch.

    .venv/bin/python benchmarks/firmware.py [--quick] [--json [FILE]] [--url postgresql://…]

An installation with many approved releases is prepared in bulk: rows, approvals, their events, and the signer's record of
what it signed for, as the verbs would have left them. Then, with the signer in a process of its own:

* *all*: the repository is made from nothing — every release is read and verified again, every bin signed, fetched by the
  worker, written and recorded; CPU (user and system) of both processes, waited for to the end;
* *one more*: a release is published into it, through the verb; CPU of both processes;
* *audit*: every release verified again and every public file compared, with nothing changed;
* *a device*: python-tuf's client fetches one target's metadata over HTTP into an empty memory, and again after the next
  release; bytes counted at the client.

The peer is python-tuf writing one ``targets.json`` of the same entries, as this project did before it had bins.
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from lachan import clock
from lachan.database import metadata
from lachan.events import FirmwareApproved
from lachan.identity import Principal, PrincipalKind, Role
from lachan.ids import new_id
from lachan.runtime import Runtime
from lachan.settings import Settings
from lachan.signer.context import InitContext
from lachan.signer.keystore import open_keys
from lachan.work.outbox import events
from ota_signing import bins, publishing, service, setup
from ota_signing.models import approvals, artifacts, releases, slots
from ota_signing.repository import Repository
from ota_signing.statement import ReleaseStatement

GOAL_CPU, GOAL_BYTES = 5.0, 200_000
PEOPLE = ("an", "binh")


def main() -> int:
    """Measure, print one table, write JSON when asked; returns 0 when every goal is met."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--releases", type=int, default=20_000)
    parser.add_argument("--quick", action="store_true", help="2 000 releases")
    parser.add_argument(
        "--json", nargs="?", const="-", help="write a JSON document to FILE; to standard output without"
    )
    parser.add_argument("--url", default="", help="database URL; SQLite in a temporary folder by default")
    args = parser.parse_args()
    found = measure(2000 if args.quick else args.releases, url=args.url)
    show(found)
    document = json.dumps(found, indent=2)
    if args.json == "-":
        print(document)
    elif args.json:
        Path(args.json).write_text(document + "\n", "utf-8")
    return 0 if all(line["met"] is not False for line in found["rows"]) else 1


def measure(count: int, *, url: str = "") -> dict[str, Any]:
    """Give all figures as rows of name, ours, peer, ratio, goal, met; CPU in seconds, sizes in bytes.

    Args:
        count: releases in the repository.
        url: an empty database; SQLite by default.
    """
    folder = Path(tempfile.mkdtemp(prefix="lachan-tuf-"))
    try:
        os.chmod(folder, 0o700)
        rt = prepare(folder / "data", count, url)
        with_signer = Signer(rt.settings)
        try:
            return {
                "command": "benchmarks/firmware.py",
                "releases": count,
                "rows": figures(rt, with_signer, folder, count),
            }
        finally:
            with_signer.close()
            rt.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def figures(rt: Runtime, signer: "Signer", folder: Path, count: int) -> list[dict[str, Any]]:
    """Run each measurement once, in order."""
    everything, wall = signer.cost(lambda: publishing.refresh(rt))
    paths = public(rt)
    assert len(paths) == count, f"{len(paths)} of {count} releases are listed"
    peer_cpu, peer_bytes = one_list(rt)
    root = (folder / "offline" / "tuf-root.json").read_bytes()
    with serving(Repository(rt.settings).folder) as address:
        first = fetched(address, folder / "device", root, paths[0])
        one, _ = signer.cost(lambda: service.publish(rt, PLATFORM, "extra"))
        again = fetched(address, folder / "device", root, paths[0])
    audit, _ = signer.cost(lambda: publishing.audit(rt))
    return [
        row("all releases listed, CPU-s", everything, goal=GOAL_CPU),
        row("all releases listed, wall s", wall),
        row("one more published, CPU-s", one, peer=peer_cpu),
        row("audit of all, CPU-s", audit),
        row("a device's first fetch, bytes", first, peer=peer_bytes, goal=GOAL_BYTES),
        row("its fetch after one more, bytes", again, peer=peer_bytes, goal=GOAL_BYTES),
    ]


PLATFORM = Principal(kind=PrincipalKind.TOKEN, id="t1", name="ci", roles=frozenset({Role.PLATFORM}))


def prepare(data: Path, count: int, url: str) -> Runtime:
    """Make an installation with so many published releases that no metadata lists yet, and one that is signed."""
    rt = Runtime.open(Settings.load(data, database_url=url, signer_socket=data.parent / "s"))
    metadata.create_all(rt.db.engine)
    keys = open_keys(rt.settings.signer_home, create=True)
    setup.init(InitContext(settings=rt.settings, db=rt.db, keys=keys, offline=data.parent / "offline"))
    crowd(rt, count)
    fill(rt, [("extra", count, "signed")])
    return rt


def crowd(rt: Runtime, count: int) -> None:
    """Write so many published releases, and that every bin has to be made again."""
    for start in range(0, count, 2000):
        fill(rt, [(new_id(), number, "published") for number in range(start, min(start + 2000, count))])
    with rt.db.write() as connection:
        connection.execute(slots.delete())
        rows = [{"slot": slot, "revision": 1, "published": 0} for slot in range(bins.SLOTS)]
        connection.execute(slots.insert(), rows)


def fill(rt: Runtime, wanted: list[tuple[str, int, str]]) -> None:
    """Write releases (id, number, state) as the verbs and the signer leave them, with two approvals each."""
    own = rt.settings.signer_home / "releases"
    own.mkdir(exist_ok=True)
    made = [statement(release_id, number) for release_id, number, _ in wanted]
    now = clock.now()
    files, rows, given, told = [], [], [], []
    for (_, number, state), said in zip(wanted, made, strict=True):
        shared = {"vendor": said.vendor, "sha256": said.sha256, "length": said.length}
        artifact = {"id": new_id(), "name": "fw.bin", "uploaded_by": "token:ci", "uploaded_at": now, **shared}
        files.append(artifact)
        rows.append({
            **shared, "id": said.release_id, "model": said.model, "version": said.version, "artifact_id": artifact["id"],
            "approvals_needed": 2, "downgrade": False, "proposer": said.proposer, "proposer_id": "t1",
            "digest": said.digest, "target_path": said.target_path, "slot": bins.slot(said.target_path), "state": state,
            "signature": b"\0" * 1500, "proposed_at": now, "signed_at": now,
            "published_at": now - timedelta(seconds=number) if state == "published" else None,
        })  # fmt: skip
        for person in PEOPLE:
            event = FirmwareApproved(release_id=said.release_id, approver=f"person:{person}", digest=said.digest)
            body = json.dumps({"data": event.body(), "salt": os.urandom(16).hex()}).encode()
            told.append({
                "id": new_id(), "name": "FirmwareApproved", "actor": f"person:{person}", "happened_at": now,
                "recorded_at": now, "body": body, "leaf_hash": hashlib.sha256(body).digest(), "txid": 0,
            })  # fmt: skip
            given.append({
                "release_id": said.release_id, "person_id": person, "person": f"person:{person}", "session": "s",
                "digest": said.digest, "event_id": told[-1]["id"], "approved_at": now,
            })  # fmt: skip
        (own / f"{said.digest}.json").write_bytes(said.encode())
    with rt.db.write() as connection:
        for table, values in ((artifacts, files), (releases, rows), (events, told), (approvals, given)):
            connection.execute(table.insert(), values)


def statement(release_id: str, number: int) -> ReleaseStatement:
    """One of the city's releases: twenty versions of each of a thousand models of fifty vendors."""
    return ReleaseStatement(
        release_id=release_id, vendor=f"vendor-{number % 50}", model=f"camera-{number % 1000}",
        version=f"{number // 1000}.{number % 1000}", sha256=hashlib.sha256(b"%d" % number).hexdigest(),
        length=8_126_464, approvals_needed=2, proposer="token:ci", downgrade=False,
    )  # fmt: skip


def public(rt: Runtime) -> list[str]:
    """Name the targets that the database says are listed."""
    with rt.db.read() as connection:
        return list(connection.execute(sa.select(releases.c.target_path).where(releases.c.listed)).scalars())


def one_list(rt: Runtime) -> tuple[float, int]:
    """Give the peer's figures: python-tuf encodes and signs one list; CPU-seconds and bytes."""
    from securesystemslib.signer import CryptoSigner
    from tuf.api.metadata import Metadata, TargetFile, Targets
    from tuf.api.serialization.json import JSONSerializer

    with rt.db.read() as connection:
        rows = connection.execute(sa.select(releases).where(releases.c.listed)).mappings().all()
    key, before = CryptoSigner.generate_ecdsa(), time.process_time()
    made = Targets()
    for said in (ReleaseStatement.of(found) for found in rows):
        custom = {
            "release_id": said.release_id, "vendor": said.vendor, "model": said.model, "version": said.version,
            "downgrade": said.downgrade, "digest": said.digest,
        }  # fmt: skip
        path = said.target_path
        made.targets[path] = TargetFile(said.length, {"sha256": said.sha256}, path, {"custom": custom})
    signed = Metadata(made)
    signed.sign(key)
    return time.process_time() - before, len(signed.to_bytes(JSONSerializer(compact=True)))


class Signer:
    """A signer process, and what it and this process cost."""

    def __init__(self, settings: Settings) -> None:
        code = "import sys; from benchmarks import firmware; firmware.sign(*sys.argv[1:])"
        words = [sys.executable, "-c", code, str(settings.data), settings.database_url, str(settings.signer_socket)]
        self.process = subprocess.Popen(
            words, cwd=Path(__file__).parents[1], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def cost(self, work: Callable[[], Any]) -> tuple[float, float]:
        """Do something; give CPU-seconds of both processes, and seconds."""
        before, began = self._cpu(), time.perf_counter()
        work()
        return self._cpu() - before, time.perf_counter() - began

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()

    def _cpu(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        own = resource.getrusage(resource.RUSAGE_SELF)
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") + own.ru_utime + own.ru_stime


def sign(data: str, url: str, socket: str) -> None:
    """Be the signer process until standard input ends."""
    from lachan.signer.server import SignerServer

    rt = Runtime.open(Settings.load(data, database_url=url, signer_socket=Path(socket)))
    server = SignerServer(rt.settings, rt.db)
    server.start()
    print("ready", flush=True)
    sys.stdin.read()
    server.close()
    rt.close()


def fetched(address: str, device: Path, root: bytes, path: str) -> int:
    """Fetch the metadata of one target as a device does; give the bytes that came."""
    import urllib.error
    import urllib.request

    from tuf.api.exceptions import DownloadHTTPError
    from tuf.ngclient import FetcherInterface, Updater

    came = 0

    class Counting(FetcherInterface):
        """Counts what it fetches."""

        def _fetch(self, url: str) -> Iterator[bytes]:
            nonlocal came
            try:
                with urllib.request.urlopen(url) as answer:
                    content = answer.read()
            except urllib.error.HTTPError as error:
                error.close()
                raise DownloadHTTPError(str(error), error.code) from error
            came += len(content)
            yield content

    for name in ("metadata", "targets"):
        (device / name).mkdir(parents=True, exist_ok=True)
    updater = Updater(
        str(device / "metadata"), f"{address}/", str(device / "targets"), f"{address}/", Counting(), bootstrap=root
    )
    updater.refresh()
    assert updater.get_targetinfo(path) is not None, path
    return came


class serving:  # noqa: N801 - reads as a verb in a with statement
    """A web server over a folder, as nginx would serve the metadata."""

    def __init__(self, folder: Path) -> None:
        import functools
        import http.server
        import threading

        class Quiet(http.server.SimpleHTTPRequestHandler):
            """Say nothing."""

            def log_message(self, *_: object) -> None:
                """Nothing."""

        handler = functools.partial(Quiet, directory=str(folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def row(name: str, ours: float, *, peer: float | None = None, goal: float | None = None) -> dict[str, Any]:
    """Make one line of the table; goals are upper bounds, and a ratio below 1 is better than the peer."""
    return {
        "name": name, "ours": round(ours, 3), "peer": None if peer is None else round(peer, 3),
        "ratio": None if not peer else round(ours / peer, 3), "goal": goal,
        "met": None if goal is None else ours <= goal,
    }  # fmt: skip


def show(found: dict[str, Any]) -> None:
    """Print the table, where it is in no document's way."""
    print(f"{found['releases']} releases; peer: python-tuf, one list", file=sys.stderr)
    print(f"{'':<36}{'ours':>12}{'peer':>12}{'ratio':>9}", file=sys.stderr)
    for line in found["rows"]:
        goal = "" if line["goal"] is None else f"  ≤ {line['goal']:g} {'met' if line['met'] else 'MISSED'}"
        peer = "" if line["peer"] is None else f"{line['peer']:,.3f}".removesuffix(".000")
        ratio = "" if line["ratio"] is None else f"{line['ratio']:.3f}"
        ours = f"{line['ours']:,.3f}".removesuffix(".000")
        print(f"{line['name']:<36}{ours:>12}{peer:>12}{ratio:>9}{goal}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
