"""The signer under a user of its own: the worker cannot open the keys, and is served through the socket all the same.

Two data folders, as production has them: the signer's (keys, log, certificates of the authority) belongs to its user alone;
the worker's holds no key. They meet at the socket, which a common group may use, and at PostgreSQL.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import need, postgresql
from tests.support.wait import until

SIGNER, WORKER, STRANGER, GROUP = 64101, 64102, 64103, 64104
ROOT = Path(__file__).parents[2]

SIGN = """
import signal, sys, threading
from pathlib import Path
from lachan import devices
from lachan.database import metadata
from lachan.identity import system
from lachan.identity.secrets import make_pepper
from lachan.runtime import Runtime
from lachan.settings import Settings
from lachan.signer import server
from tests.support.signer import run_init
settings = Settings.load(sys.argv[1])
make_pepper(settings.data)
rt = Runtime.open(settings)
metadata.create_all(rt.db.engine)
run_init(rt, settings.data / "offline")
with rt.db.write() as connection:
    new = devices.NewDevice(name="cam-1", vendor="v", model="m", serial_number="s", site="north")
    device = devices.register(connection, new, actor=system("test")).id
rt.close()
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
server.main(settings, stop, ready=lambda: print(device, flush=True))
"""

WORK = """
import json, os, sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives import serialization
from lachan.signer.client import SignerClient
from lachan.errors import LachanError
data, path, device = sys.argv[1:]
def attempt(fn):
    try:
        return fn()
    except OSError as error:
        return error.errno
    except LachanError as error:
        return error.code + ": " + error.detail
spki = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(
    serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
client = SignerClient(Path(path))
opened = {name: attempt(lambda: open(f"{data}/signer/{name}").read())
          for name in ("keys/ledger.key", "keys/issuing.key", "passphrase", "signatures.log", "ledger.json")}
issued = attempt(lambda: len(client.request("issue", profile="camera", device_id=device, spki=spki)["certificate"]))
client.close()
print(json.dumps({"uid": os.getuid(), "opened": opened, "issued": issued}))
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that all users may enter, with the socket's folder in it."""
    need.root("runs two processes under users of their own")
    folder = Path(tempfile.mkdtemp(prefix="lc-"))
    folder.chmod(0o711)
    (folder / "signer").mkdir(mode=0o700)
    os.chown(folder / "signer", SIGNER, SIGNER)
    (folder / "run").mkdir()
    os.chown(folder / "run", SIGNER, GROUP)
    (folder / "run").chmod(0o2750)
    yield folder
    shutil.rmtree(folder)


def interpreter() -> str:
    """A Python of our version that other users may run; where ours lies in somebody's home, the system's."""
    for path in (sys.executable, "/usr/bin/python3"):
        if not os.path.exists(path):
            continue
        try:
            asked = subprocess.run(
                [path, "-c", "import sys; print(sys.version_info[:2])"], user=WORKER, group=WORKER, extra_groups=[],
                cwd="/", env={}, capture_output=True, text=True, check=False,
            )  # fmt: skip
        except PermissionError:
            continue
        if asked.stdout.strip() == str(sys.version_info[:2]):
            return path
    need.missing("needs a Python of this version that other users may run: apt install python3")


def environment(**more: str) -> dict[str, str]:
    paths = [str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))]
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": ":".join(paths), **more}


def work(folder: Path, device: str, *, uid: int, groups: list[int]) -> dict:
    words = [interpreter(), "-c", WORK, str(folder / "signer"), str(folder / "run" / "s"), device]
    done = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, check=False, user=uid, group=uid, extra_groups=groups,
        env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_worker_cannot_open_the_keys_and_is_served_all_the_same(place: Path):
    with postgresql.cluster() as cluster, postgresql.database(cluster) as url:
        os.chmod(cluster, 0o711)
        settings = environment(
            LACHAN_DATABASE_URL=url,
            LACHAN_SIGNER_SOCKET=str(place / "run" / "s"),
            LACHAN_SIGNER_ALLOWED_UIDS=f"[{WORKER}]",
        )
        with subprocess.Popen(
            [interpreter(), "-c", SIGN, str(place / "signer")], cwd=ROOT, env=settings, text=True,
            stdout=subprocess.PIPE, user=SIGNER, group=SIGNER, extra_groups=[GROUP],
        ) as signer:  # fmt: skip
            try:
                assert signer.stdout is not None
                device = signer.stdout.readline().strip()
                assert device, "the signer did not start"
                socket = (place / "run" / "s").stat()
                assert (socket.st_uid, socket.st_gid, socket.st_mode & 0o777) == (SIGNER, GROUP, 0o660)

                worker = work(place, device, uid=WORKER, groups=[GROUP])
                assert set(worker["opened"].values()) == {13}, "EACCES for every file of the signer"
                assert worker["uid"] == WORKER
                assert isinstance(worker["issued"], int), worker["issued"]

                outside = work(place, device, uid=STRANGER, groups=[])
                assert "Permission denied" in outside["issued"]
                inside = work(place, device, uid=STRANGER, groups=[GROUP])
                assert f"user {STRANGER} may not ask" in inside["issued"]
            finally:
                signer.terminate()
        log = (place / "signer" / "signer" / "signatures.log").read_text().splitlines()
        asked = [(line["kind"], line["outcome"], line["uid"]) for line in map(json.loads, log)]
        assert asked == [("issue", "signed", WORKER), ("connect", "refused", STRANGER)]
        assert until(lambda: not (place / "run" / "s").exists())
