"""`SignerClient`: how every other process asks for a signature.

Connections are kept and reused; one that the signer closed is noticed before anything is sent on it, so a request is
never sent twice by itself (two certificates for one request would be a discrepancy). Limits: one machine; the signer must
answer within the time-out, otherwise the request's outcome is unknown and the signer's log decides (`signer.reconcile`).
"""

import contextlib
import socket
import threading
from pathlib import Path
from typing import Any

from lachan.signer import wire
from lachan.signer.errors import BadFrame, SignerBusy, SignerRefused, SignerUnavailable
from lachan.work.wake import reachable

IDLE = 8


class SignerClient:
    """Ask the signer; may be shared by threads.

    Args:
        path: the signer's socket.
        timeout: seconds for connecting and for each answer.
    """

    def __init__(self, path: Path, *, timeout: float = 5.0) -> None:
        self.path = path
        self.timeout = timeout
        self._idle: list[socket.socket] = []
        self._lock = threading.Lock()

    def request(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Send one typed request.

        Args:
            kind: a name of some room's ``SIGNING``, or ``ping``, ``public``, ``log``.
            fields: JSON values or bytes; the signer refuses unknown ones.

        Returns:
            The handler's answer; bytes arrive as bytes, what is big as an open file that the caller closes.

        Raises:
            SignerRefused: the signer will not sign that.
            SignerBusy: it was asked for too many of this kind.
            SignerUnavailable: it does not answer, or failed inside.
        """
        connection = self._take()
        try:
            wire.send(connection, {"kind": kind, "fields": fields})
            answer = wire.receive(connection, files=True)
        except BadFrame as error:
            connection.close()
            raise SignerUnavailable(f"The signer's answer to {kind} is no answer: {error}") from error
        except OSError as error:
            connection.close()
            raise SignerUnavailable(f"The signer at {self.path} did not answer {kind}: {error}") from error
        except BaseException:
            connection.close()
            raise
        if answer is None:
            connection.close()
            raise SignerUnavailable(f"The signer at {self.path} hung up on {kind}.")
        self._give(connection)
        return result(kind, answer)

    def close(self) -> None:
        """Hang up."""
        with self._lock:
            while self._idle:
                self._idle.pop().close()

    def _take(self) -> socket.socket:
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return self._connect()
            if _alive(connection):
                return connection
            connection.close()

    def _give(self, connection: socket.socket) -> None:
        with self._lock:
            if len(self._idle) < IDLE:
                self._idle.append(connection)
                return
        connection.close()

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(self.timeout)
        try:
            with reachable(self.path) as name:
                connection.connect(name)
        except OSError as error:
            connection.close()
            raise SignerUnavailable(f"No signer listens at {self.path}: {error}") from error
        return connection

    def __del__(self) -> None:
        """Close a forgotten client's sockets before the garbage collector warns of them."""
        with contextlib.suppress(AttributeError):
            self.close()


def _alive(connection: socket.socket) -> bool:
    """Tell whether the signer still holds its end; what it sent unasked would be as wrong as its hanging up."""
    timeout = connection.gettimeout()
    connection.settimeout(0)  # with a time-out Python would wait for it, whatever the flags say
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        connection.settimeout(timeout)
        return True
    except OSError:
        pass
    return False


def result(kind: str, answer: dict[str, Any]) -> dict[str, Any]:
    """Take what the signer answered to one request apart; raises as `SignerClient.request` does."""
    if "ok" in answer and isinstance(answer["ok"], dict):
        return answer["ok"]
    reason = str(answer.get("refused") or answer.get("failed") or "no reason given")
    if "retry_after" in answer and "refused" in answer:
        raise SignerBusy(reason, kind=kind, reason=reason, retry_after=answer["retry_after"])
    if "refused" in answer:
        raise SignerRefused(reason, kind=kind, reason=reason)
    again = {"retry_after": answer["retry_after"]} if "retry_after" in answer else {}
    raise SignerUnavailable(f"The signer failed at {kind}: {reason}", kind=kind, **again)
