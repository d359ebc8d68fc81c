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


@contextmanager
def cluster() -> Iterator[str]:
    """A running cluster; yields the folder of its socket."""
    initdb = need.program("initdb", package="postgresql")
    server = need.program("postgres", package="postgresql")
    folder = Path(tempfile.mkdtemp(prefix="lachan-pg-"))
    who: dict[str, object] = {}
    if os.geteuid() == 0:
        names = {entry.pw_name for entry in pwd.getpwall()}
        user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
        os.chown(folder, user.pw_uid, user.pw_gid)
        who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    env = {"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8", "HOME": str(folder)}
    made = ["-D", str(folder / "data"), "-U", "lachan", "-A", "trust", "-E", "UTF8", "--no-sync"]
    subprocess.run([initdb, *made], check=True, env=env, cwd=folder, stdout=subprocess.DEVNULL, **who)  # type: ignore[call-overload]
    options = ("fsync=off", "max_connections=200", "listen_addresses=", f"unix_socket_directories={folder}")
    words = [server, "-D", str(folder / "data"), *(word for option in options for word in ("-c", option))]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, env=env, cwd=folder, stdout=log, stderr=log, **who)  # type: ignore[call-overload]
    try:
        until(lambda: _answers(folder), timeout=60, every=0.05, what=f"PostgreSQL in {folder}")
        yield str(folder)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


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
