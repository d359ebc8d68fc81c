"""The signer's socket: who may speak (SO_PEERCRED), one thread per connection, and an orderly end.

``main(settings, stop)`` is what ``lachan serve --role sign`` runs. The socket has mode 0660 and its folder 0750, so that a
deployment may give the workers' group the socket and nothing else; the kernel names the peer's user and only our own and
those of the setting ``signer_allowed_uids`` are heard. Limits: at most `CONNECTIONS` at a time; a frame must be complete
within `FRAME_TIME` seconds of its first byte.
"""

import contextlib
import fcntl
import os
import selectors
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path

from lachan import wiring
from lachan.database import Database
from lachan.log import get as get_logger
from lachan.settings import Settings
from lachan.signer import wire
from lachan.signer.dispatch import Dispatcher
from lachan.signer.errors import BadFrame, SignatureRefused, SignerRuns
from lachan.signer.keys import KeyStore
from lachan.signer.keystore import open_keys
from lachan.signer.relay import Relay
from lachan.work.wake import reachable

CONNECTIONS = 128
FRAME_TIME = 10.0
_CREDENTIALS = struct.Struct("3i")
log = get_logger(__name__)


class SignerServer:
    """A running signer; `close` ends it.

    Args:
        settings: of this installation.
        db: its database.
        keys: the private keys; opened from the signer's folder by default.
        signing: kind → ``"module:function"``; the wiring's by default.
        reached: told each boundary (`lachan.signer.dispatch.SignerBoundary`).

    Raises:
        KeyLocked: there is no passphrase.
        SignerRuns: another signer uses the folder.
        OSError: the socket cannot be made.
    """

    def __init__(
        self,
        settings: Settings,
        db: Database,
        *,
        keys: KeyStore | None = None,
        signing: Mapping[str, str] | None = None,
        reached: Callable[[StrEnum], None] = lambda _boundary: None,
    ) -> None:
        folder = settings.signer_home
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._only = _only_one(folder)
        self.relay = Relay(settings, db, folder)
        self.dispatcher = Dispatcher(
            settings,
            db,
            keys if keys is not None else open_keys(folder),
            {kind: found.handler for kind, found in wiring.load().signing.items()} if signing is None else signing,
            self.relay.notice,
            reached,
        )
        self.allowed = {os.getuid(), *settings.signer_allowed_uids}
        self.path = settings.signer_path
        self._listener = _listen(self.path)
        self._wake_in, self._wake_out = socket.socketpair()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._acceptor = threading.Thread(target=self._accept, name="signer-accept", daemon=True)

    def start(self) -> None:
        """Begin to listen and to deliver what earlier runs could not."""
        self.relay.start()
        self._acceptor.start()

    def close(self) -> None:
        """Stop listening, let running requests end, and close everything."""
        self._wake_out.send(b"!")
        self._acceptor.join()
        self._listener.close()
        self.path.unlink(missing_ok=True)
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RD)
            threads = list(self._threads)
        for thread in threads:
            thread.join(timeout=FRAME_TIME)
        self.relay.close()
        self.dispatcher.close()
        self._wake_in.close()
        self._wake_out.close()
        os.close(self._only)

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake_in, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select()]
                if self._wake_in in ready:
                    return
                try:
                    connection, _ = self._listener.accept()
                except OSError as error:
                    log.warning("accept failed", error=str(error))
                    continue
                self._begin(connection)

    def _begin(self, connection: socket.socket) -> None:
        with self._lock:
            if len(self._open) >= CONNECTIONS:
                connection.close()
                log.warning("too many connections to the signer", limit=CONNECTIONS)
                return
            thread = threading.Thread(target=self._serve, args=(connection,), name="signer", daemon=True)
            self._open.add(connection)
            self._threads.add(thread)
        thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._talk(connection)
        except (BadFrame, OSError) as error:
            log.info("a connection to the signer ended badly", error=str(error))
        finally:
            with self._lock:
                self._open.discard(connection)
                self._threads.discard(threading.current_thread())

    def _talk(self, connection: socket.socket) -> None:
        pid, uid, _ = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        if uid not in self.allowed:
            refused = SignatureRefused(f"user {uid} may not ask the signer")
            wire.send(connection, self.dispatcher.refuse("connect", refused, pid=pid, uid=uid))
            return
        incoming = wire.Frames(connection, patience=FRAME_TIME)
        while (message := incoming.next()) is not None:
            connection.settimeout(FRAME_TIME)
            wire.send(connection, self.dispatcher.answer(message, pid=pid, uid=uid))


def main(settings: Settings, stop: threading.Event, ready: Callable[[], None] = lambda: None) -> None:
    """Run the signer until ``stop`` is set (the role ``sign``); calls ``ready`` once its socket answers."""
    found = wiring.load()
    found.import_tables()
    db = Database(settings.url, pool_size=settings.database_pool)
    try:
        server = SignerServer(settings, db)
        server.start()
        ready()
        try:
            stop.wait()
        finally:
            server.close()
    finally:
        db.close()


def _only_one(folder: Path) -> int:
    """Give the lock on the signer's folder; the kernel gives it back when the process ends, however it ends."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise SignerRuns(f"Another process holds {folder / 'lock'}.") from error
    return descriptor


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        before = os.umask(0o117)
        try:
            with reachable(path) as name:
                listener.bind(name)
        finally:
            os.umask(before)
        listener.listen(CONNECTIONS)
    except OSError:
        listener.close()
        raise
    return listener
