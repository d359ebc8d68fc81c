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
from lachan.signer.keystore import KeyStore
from lachan.signer.server import SignerServer
from lachan.wiring import resolve


def run_init(rt: Runtime, offline: Path) -> None:
    """Run the INIT functions of all rooms, as ``lachan init`` does."""
    keys = KeyStore.create(rt.settings.data)
    offline.mkdir(mode=0o700, exist_ok=True)
    context = InitContext(settings=rt.settings, db=rt.db, keys=keys, offline=offline)
    for name in rt.wiring.init:
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


@pytest.fixture
def signer_rt(rt: Runtime, tmp_path: Path, short_folder: Path) -> Iterator[Runtime]:
    """A Runtime with a running signer and the keys of all rooms."""
    moved = Runtime(rt.settings.model_copy(update={"signer_socket": short_folder / "s"}), rt.db, rt.wiring)
    run_init(moved, tmp_path / "offline")
    with running_signer(moved):
        yield moved
        if "signer" in moved.__dict__:
            moved.signer.close()
