"""A PostgreSQL cluster per installation, as the package makes it (fsync on), so that all of its CPU is that one's.

``initdb`` refuses root; as root the cluster runs as ``postgres`` (or ``nobody``). It listens on a Unix socket and, for
drivers that want an address, on a free loopback port.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg


def available() -> bool:
    """Tell whether PostgreSQL's programs are there."""
    return shutil.which("initdb") is not None and shutil.which("postgres") is not None


class Cluster:
    """One cluster, used by one side of a comparison."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lbp-"))
        self.process: subprocess.Popen[bytes] | None = None
        self.port = self.free_port()

    @staticmethod
    def free_port() -> int:
        """Name a loopback port that nobody listens on."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return int(free.getsockname()[1])

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        assert self.process
        return self.process.pid

    def start(self, name: str) -> str:
        """Make and start it with one empty database; gives that one's SQLAlchemy URL.

        Raises:
            TimeoutError: it did not answer within a minute.
        """
        who: dict[str, Any] = {}
        if os.geteuid() == 0:
            names = {entry.pw_name for entry in pwd.getpwall()}
            user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        env = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(self.folder)}
        made = ["initdb", "-D", str(self.folder / "data"), "-U", "lachan", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(made, check=True, env=env, cwd=self.folder, stdout=subprocess.DEVNULL, **who)
        options = ("max_connections=200", f"port={self.port}", f"unix_socket_directories={self.folder}")
        words = ["postgres", "-D", str(self.folder / "data"), *(word for option in options for word in ("-c", option))]
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(words, env=env, cwd=self.folder, stdout=log, stderr=log, **who)
        end = time.monotonic() + 60
        while True:
            try:
                with self.connect("postgres") as connection:
                    connection.execute(f'CREATE DATABASE "{name}"')
                break
            except psycopg.OperationalError:
                if time.monotonic() > end:
                    raise TimeoutError(f"PostgreSQL in {self.folder} does not answer") from None
                time.sleep(0.1)
        return f"postgresql+psycopg://lachan@/{name}?host={self.folder}&port={self.port}"

    def connect(self, name: str) -> psycopg.Connection[Any]:
        """Open a connection in autocommit."""
        return psycopg.connect(host=str(self.folder), port=self.port, user="lachan", dbname=name, autocommit=True)

    def stop(self) -> None:
        """Stop it by its process id and remove its folder."""
        if self.process:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGQUIT)
                self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
