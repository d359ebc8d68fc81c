"""From a request to its answer: limit, handler, log, and only then the answer.

Steps: 1. the bucket of its kind; 2. the room's handler, which builds what it signs; 3. the log line, durable; 4. the
answer. A handler that raises `SignatureRefused` (or any `LachanError`) is a refusal; anything else is a failure that tells
the caller nothing but its number. Limits: a handler that signs must say so with `SignerContext.signed`; an answer without
it is withheld, unless it says ``{"unsigned": True}``.
"""

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization

from lachan.database import Database
from lachan.errors import LachanError
from lachan.log import get as get_logger
from lachan.settings import Settings
from lachan.signer import siglog
from lachan.signer.context import SignerContext, strict
from lachan.signer.errors import SignatureRefused
from lachan.signer.keystore import KeyStore
from lachan.signer.limits import Limiter
from lachan.signer.siglog import Outcome, SignatureLog
from lachan.wiring import resolve

log = get_logger(__name__)
QUIET = 60.0  # seconds between two log lines about the same exhausted bucket


class Dispatcher:
    """Answers requests; threads may call it at once.

    Args:
        settings: of this installation.
        db: its database, for looking only.
        keys: the private keys.
        signing: kind → ``"module:function"`` (`lachan.wiring.Wiring.signing`).
        on_refusal: called after each refusal is in the log.
    """

    def __init__(
        self,
        settings: Settings,
        db: Database,
        keys: KeyStore,
        signing: Mapping[str, str],
        on_refusal: Callable[[], None],
    ) -> None:
        self.folder: Path = settings.signer_home
        self.settings, self.db, self.keys = settings, db, keys
        self.signing = dict(signing)
        self.log = SignatureLog(self.folder / "signatures.log")
        self._on_refusal = on_refusal
        self._limiter = Limiter(settings.signer_rates)
        self._told: dict[str, float] = {}
        self._lock = threading.Lock()

    def answer(self, message: Mapping[str, Any], *, pid: int, uid: int) -> dict[str, Any]:
        """The answer to one message: ``{"ok": …}``, ``{"refused": reason}`` or ``{"failed": reason}``."""
        kind, fields = message.get("kind"), message.get("fields")
        if not isinstance(kind, str) or not isinstance(fields, dict) or len(message) != 2:
            return {"failed": "a request is {kind, fields}"}
        known = kind in self.signing or kind in ("ping", "public", "log")
        wait = self._limiter.wait_for(kind if known else "unknown")
        if wait:
            return self._too_many(kind, wait, pid=pid, uid=uid)
        context = SignerContext(self.keys, self.db, self.settings, self.folder)
        try:
            if not known:
                raise SignatureRefused("the signer knows no request of this kind")
            if kind not in self.signing:
                return {"ok": self._own(kind, fields)}
            ok = resolve(self.signing[kind])(context, fields)
        except LachanError as error:
            return self.refuse(kind, error, pid=pid, uid=uid)
        except Exception as error:
            log.exception("signing failed", kind=kind)
            line = {"subject": _subjects(context), "digest": "", "outcome": Outcome.FAILED, "reason": repr(error)[:200]}
            return {"failed": f"internal error, line {self.log.append(kind[:60], [line], pid=pid, uid=uid)} of the log"}
        if not context.signatures:
            if ok.get("unsigned") is True:
                return {"ok": ok}
            log.error("a signing handler recorded no signature", kind=kind)
            return {"failed": "the handler recorded no signature"}
        lines = [{"subject": s.subject, "digest": s.digest, "outcome": Outcome.SIGNED} for s in context.signatures]
        self.log.append(kind, lines, pid=pid, uid=uid)
        return {"ok": ok}

    def refuse(self, kind: str, error: LachanError, *, pid: int, uid: int) -> dict[str, Any]:
        """Put a refusal into the log and say it."""
        subject = str(error.fields.get("subject", ""))[:200]
        line = {"subject": subject, "digest": "", "outcome": Outcome.REFUSED, "reason": error.detail[:500]}
        self.log.append(kind[:60], [line], pid=pid, uid=uid)
        self._on_refusal()
        return {"refused": error.detail}

    def close(self) -> None:
        """Close the log."""
        self.log.close()

    def _too_many(self, kind: str, wait: float, *, pid: int, uid: int) -> dict[str, Any]:
        """Over the limit: the first in a minute is logged as a refusal, the others only answered."""
        bucket, now = kind if kind in self.signing else "unknown", time.monotonic()
        with self._lock:
            tell = now - self._told.get(bucket, -QUIET) >= QUIET
            if tell:
                self._told[bucket] = now
        reason = "more requests of this kind than the signer's rate limit allows"
        answer = self.refuse(bucket, SignatureRefused(reason), pid=pid, uid=uid) if tell else {"refused": reason}
        return {**answer, "retry_after": max(1, round(wait))}

    def _own(self, kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The requests that sign nothing: is it there, a public key, the log."""
        if kind == "ping":
            strict(fields, {})
            return {"keys": self.keys.names(), "kinds": sorted(self.signing)}
        if kind == "public":
            name = strict(fields, {"name": str})["name"]
            der = self.keys.public(name).public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            return {"spki": der}
        after = strict(fields, {"after": int})["after"]
        size = self.log.path.stat().st_size
        if not 0 <= after <= size:
            return {"lines": [], "next": after, "size": size}
        found = list(siglog.read(self.log.path, after=after, limit=1 << 19))
        return {"lines": [[position, line] for position, line in found], "size": size}


def _subjects(context: SignerContext) -> str:
    return ",".join(signature.subject for signature in context.signatures)[:200]
