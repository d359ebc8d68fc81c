"""A real signer for tests: its server in a thread, on a socket in a short temporary folder, with keys as init makes them.

``pytest`` fixtures are exported by tests/conftest.py; `running_signer` is for tests that need two of them or their own keys.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lachan.runtime import Runtime
from lachan.signer.context import InitContext
from lachan.signer.keystore import open_keys
from lachan.signer.server import SignerServer
from lachan.wiring import resolve


def run_init(rt: Runtime, offline: Path, *, rooms: tuple[str, ...] = ()) -> None:
    """Run the INIT functions of all rooms (or of some, by their package), as ``lachan init`` does."""
    keys = open_keys(rt.settings.signer_home, create=True)
    offline.mkdir(mode=0o700, exist_ok=True)
    context = InitContext(settings=rt.settings, db=rt.db, keys=keys, offline=offline)
    for name in rt.wiring.init:
        if not rooms or name.startswith(rooms):
            resolve(name)(context)


@contextmanager
def running_signer(rt: Runtime) -> Iterator[SignerServer]:
    """A signer for this runtime, ended at the end of the block."""
    server = SignerServer(rt.settings, rt.db)
    server.start()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for a unix socket (107 bytes)."""
    folder = Path(tempfile.mkdtemp(prefix="lc-"))
    yield folder
    shutil.rmtree(folder)


@contextmanager
def runtime_with_signer(rt: Runtime, folder: Path, offline: Path, *, rooms: tuple[str, ...] = ()) -> Iterator[Runtime]:
    """The runtime with keys, and a signer that answers on a socket in ``folder``."""
    moved = Runtime(rt.settings.model_copy(update={"signer_socket": folder / "s"}), rt.db, rt.wiring)
    run_init(moved, offline, rooms=rooms)
    with running_signer(moved):
        yield moved
        if "signer" in moved.__dict__:
            moved.signer.close()


@pytest.fixture
def signer_rt(rt: Runtime, tmp_path: Path, short_folder: Path) -> Iterator[Runtime]:
    """A Runtime with a running signer and the keys of all rooms."""
    with runtime_with_signer(rt, short_folder, tmp_path / "offline") as moved:
        yield moved


@pytest.fixture
def ledger_rt(rt: Runtime, tmp_path: Path, short_folder: Path) -> Iterator[Runtime]:
    """A Runtime with a running signer that has the ledger's key only: made much faster than `signer_rt`."""
    with runtime_with_signer(rt, short_folder, tmp_path / "offline", rooms=("lachan.ledger",)) as moved:
        yield moved
