"""Wake-ups: a datagram tells the other processes of this machine that rows are due.

Losing every wake-up loses nothing (design decision 12): whoever waits looks at its rows again after at most ``timeout``.
A process that wants to be woken binds one socket in ``<data>/run``; `notify` sends one byte to each of them. Over several
machines another waker takes this place; the rows stay the same.
"""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST = 107  # bytes of sockaddr_un.sun_path, less the closing zero (unix(7))


@contextmanager
def reachable(path: Path) -> Iterator[str]:
    """A name for a Unix socket that the kernel takes: at most 107 bytes, so a long path goes through its folder's number.

    Raises:
        OSError: the folder cannot be opened.
    """
    if len(os.fsencode(path)) <= LONGEST:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class Sleeper:
    """One waiting thread's bed; ``timeout`` in seconds is how long it may sleep through lost wake-ups."""

    def __init__(self, data: Path, name: str) -> None:
        folder = data / "run"
        folder.mkdir(mode=0o700, exist_ok=True)
        self.path = folder / f"{name}.{os.getpid()}.{threading.get_ident() & 0xFFFF}.wake"
        self.path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with reachable(self.path) as name_of_socket:
            self._socket.bind(name_of_socket)

    def sleep(self, timeout: float) -> bool:
        """Wait for a wake-up or for ``timeout`` seconds; tell whether it was a wake-up."""
        self._socket.settimeout(max(timeout, 0.001))
        try:
            self._socket.recv(16)
        except TimeoutError:
            return False
        self._socket.setblocking(False)
        try:
            while True:  # several wake-ups are one
                self._socket.recv(16)
        except BlockingIOError:
            return True

    def close(self) -> None:
        """Leave the bed."""
        self._socket.close()
        self.path.unlink(missing_ok=True)


def notify(data: Path) -> None:
    """Wake everybody who sleeps on this data folder; never fails and never blocks."""
    try:
        beds = list((data / "run").glob("*.wake"))
    except OSError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        for bed in beds:
            try:
                with reachable(bed) as name:
                    sender.sendto(b"!", name)
            except ConnectionRefusedError:
                bed.unlink(missing_ok=True)  # its process is gone
            except OSError:
                continue
