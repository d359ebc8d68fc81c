"""A real PostgreSQL from Debian's packages: one throw-away cluster per test process, a fresh database per test.

``initdb`` refuses root, so as root the cluster runs as ``postgres`` (or ``nobody``). It listens on a Unix socket in its
own folder only, is stopped by its pid, and fsync is off: these tests are about locking and SQL, not about power loss.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from lachan.ids import new_id
from tests.support import need
from tests.support.wait import until


class Cluster:
    """A cluster in a folder of its own, not started yet; its socket is there."""

    def __init__(self) -> None:
        initdb = need.program("initdb", package="postgresql")
        self._server = need.program("postgres", package="postgresql")
        self.folder = Path(tempfile.mkdtemp(prefix="lachan-pg-"))
        self._who: dict[str, object] = {}
        if os.geteuid() == 0:
            names = {entry.pw_name for entry in pwd.getpwall()}
            user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._env = {"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8", "HOME": str(self.folder)}
        made = [initdb, "-D", str(self.folder / "data"), "-U", "lachan", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(made, check=True, env=self._env, cwd=self.folder, stdout=subprocess.DEVNULL, **self._who)  # type: ignore[call-overload]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = ("fsync=off", "max_connections=200", "listen_addresses=", f"unix_socket_directories={self.folder}")
        words = [self._server, "-D", str(self.folder / "data"), *(word for each in options for word in ("-c", each))]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                words, env=self._env, cwd=self.folder, stdout=log, stderr=log, **self._who  # type: ignore[call-overload]
            )  # fmt: skip
        until(lambda: _answers(self.folder), timeout=60, every=0.05, what=f"PostgreSQL in {self.folder}")

    def stop(self) -> None:
        """Stop the server; its connections are cut."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait()


@contextmanager
def own_cluster() -> Iterator[Cluster]:
    """A running cluster that the test may stop and start again."""
    made = Cluster()
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(made.folder, ignore_errors=True)


@contextmanager
def cluster() -> Iterator[str]:
    """A running cluster; yields the folder of its socket."""
    with own_cluster() as made:
        yield str(made.folder)


def _answers(folder: Path) -> bool:
    try:
        with psycopg.connect(host=str(folder), user="lachan", dbname="postgres", connect_timeout=2):
            return True
    except psycopg.OperationalError:
        return False


@contextmanager
def database(socket_folder: str) -> Iterator[str]:
    """A fresh, empty database; yields its SQLAlchemy URL and drops it afterwards."""
    name = "t" + new_id().replace("-", "")
    with psycopg.connect(host=socket_folder, user="lachan", dbname="postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    try:
        yield f"postgresql+psycopg://lachan@/{name}?host={socket_folder}"
    finally:
        with psycopg.connect(host=socket_folder, user="lachan", dbname="postgres", autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
