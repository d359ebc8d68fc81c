"""From requests to answers: limit, handler, log, and only then the answers.

A message carries one request or many of one kind. Steps: 1. the bucket of the kind, once for each; 2. the room's handler,
which looks once for all of them and builds what it signs; 3. the log lines of all of them, durable with one fsync; 4. the
answers. A handler that raises `SignatureRefused` (or any `LachanError`) is a refusal; a database that is away is neither, and the
caller comes again; anything else is a failure that tells the caller nothing but its number; neither concerns the other requests of the message. Limits: a handler that signs must say
so with `SignerContext.signed`; an answer without it is withheld, unless it says ``{"unsigned": True}``.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization

from lachan import clock, wiring
from lachan.database import Database
from lachan.errors import DatabaseAway, LachanError
from lachan.log import get as get_logger
from lachan.settings import Settings
from lachan.signer import siglog
from lachan.signer.context import Handler, SignerContext, strict
from lachan.signer.counts import HourlyCounts
from lachan.signer.errors import SignatureRefused
from lachan.signer.keys import KeyStore
from lachan.signer.limits import Limiter
from lachan.signer.siglog import SignatureLog, SignatureOutcome
from lachan.wiring import resolve

log = get_logger(__name__)
_OPTIONAL = ("device_id", "authority")  # fields of a line that are left out when empty
RETRY_AFTER = 2  # seconds
QUIET = 60.0  # seconds between two log lines about the same exhausted bucket
MOST = 64  # requests of one message


class SignerBoundary(StrEnum):
    """The moments of a message at which a crash must be borne, in their order; tests end the process at each of them."""

    ASKED = "asked"
    BUILT = "built"  # signed; nobody knows yet
    LOGGED = "logged"  # the log knows; the caller does not


@dataclass
class _Answer:
    """One answer and what the log must hold before it leaves."""

    answer: dict[str, Any]
    lines: list[dict[str, Any]] = field(default_factory=list)


class Dispatcher:
    """Answer requests; threads may call it at once.

    Args:
        settings: of this installation.
        db: its database, for looking only.
        keys: the private keys.
        signing: kind → ``"module:function"`` or ``"module:HANDLER"`` (`lachan.wiring.Signing.handler`).
        on_refusal: called after refusals are in the log.
        reached: told each `SignerBoundary`.
    """

    def __init__(
        self,
        settings: Settings,
        db: Database,
        keys: KeyStore,
        signing: Mapping[str, str],
        on_refusal: Callable[[], None],
        reached: Callable[[StrEnum], None] = lambda _boundary: None,
    ) -> None:
        self.folder: Path = settings.signer_home
        self.settings, self.db, self.keys = settings, db, keys
        self.signing = dict(signing)
        self.log = SignatureLog(self.folder / "signatures.log")
        self.counts = HourlyCounts(settings.signer_device_hour)
        self.counts.restore(_of_devices(self.log.path))
        self._on_refusal, self._reached = on_refusal, reached
        rates = {kind: found.rate for kind, found in wiring.load().signing.items()}
        self._limiter = Limiter(rates | settings.signer_rates)
        self._told: dict[str, float] = {}
        self._memory: dict[str, Any] = {}
        self._lock = threading.Lock()

    def answer(self, message: Mapping[str, Any], *, pid: int, uid: int) -> dict[str, Any]:
        """Answer one message.

        Args:
            message: ``kind`` and either ``fields`` or ``items``, a list of 1 to `MOST` fields.
            pid: process that asks.
            uid: user that asks.

        Returns:
            ``{"ok": …}``, ``{"refused": reason}`` or ``{"failed": reason}``; for items ``{"items": […]}`` with one of these
            for each, in their order.
        """
        kind, fields, items = message.get("kind"), message.get("fields"), message.get("items")
        if isinstance(kind, str) and len(message) == 2:
            if isinstance(fields, dict):
                return self._answers(kind, [fields], pid=pid, uid=uid)[0]
            if isinstance(items, list) and 1 <= len(items) <= MOST and all(isinstance(item, dict) for item in items):
                return {"items": self._answers(kind, items, pid=pid, uid=uid)}
        return {"failed": f"a request is {{kind, fields}} or {{kind, items}} with 1 to {MOST} items"}

    def refuse(self, kind: str, error: LachanError, *, pid: int, uid: int) -> dict[str, Any]:
        """Put a refusal into the log and say it."""
        found = _refusal(error)
        self._keep(kind, [found], pid=pid, uid=uid)
        return found.answer

    def close(self) -> None:
        """Close the log."""
        self.log.close()

    def _answers(self, kind: str, items: Sequence[dict[str, Any]], *, pid: int, uid: int) -> list[dict[str, Any]]:
        self._reached(SignerBoundary.ASKED)
        known = kind in self.signing or kind in ("ping", "public", "log")
        found = [self._over_limit(kind if known else "unknown") for _ in items]
        admitted = [item for item, over in zip(items, found, strict=True) if over is None]
        if not known:
            made = [_refusal(SignatureRefused("the signer knows no request of this kind")) for _ in admitted]
        elif kind in self.signing:
            made = self._sign(kind, admitted)
        else:
            made = [self._own(kind, item) for item in admitted]
        following = iter(made)
        answers = [over or next(following) for over in found]
        self._reached(SignerBoundary.BUILT)
        self._keep(kind, answers, pid=pid, uid=uid)
        self._reached(SignerBoundary.LOGGED)
        return [each.answer for each in answers]

    def _keep(self, kind: str, answers: Sequence[_Answer], *, pid: int, uid: int) -> None:
        """Make the lines of all answers durable; a failure is told the number of its own."""
        lines = [line for each in answers for line in each.lines]
        if not lines:
            return
        number = self.log.append(kind[:60], lines, pid=pid, uid=uid) - len(lines)
        for each in answers:
            number += len(each.lines)
            if each.lines and each.lines[0]["outcome"] is SignatureOutcome.FAILED:
                each.answer["failed"] += f", line {number} of the log"
        if any(line["outcome"] is SignatureOutcome.REFUSED for line in lines):
            self._on_refusal()

    def _sign(self, kind: str, items: Sequence[dict[str, Any]]) -> list[_Answer]:
        handler: Any = resolve(self.signing[kind])
        if not isinstance(handler, Handler):
            return [self._one(kind, partial(_call, handler, item)) for item in items]
        if not items:
            return []
        try:
            seen = handler.look(self._context(), items)
        except DatabaseAway as error:
            return [_away(error) for _ in items]
        except Exception as error:
            log.exception("a signing handler could not look", kind=kind)
            return [_failure(error, "") for _ in items]
        return [self._one(kind, partial(_call, handler.sign, item, seen)) for item in items]

    def _one(self, kind: str, call: Callable[[SignerContext], dict[str, Any]]) -> _Answer:
        context = self._context()
        try:
            ok = call(context)
        except DatabaseAway as error:
            return _away(error)
        except LachanError as error:
            return _refusal(error)
        except Exception as error:
            log.exception("signing failed", kind=kind)
            return _failure(error, ",".join(signature.subject for signature in context.signatures)[:200])
        if context.signatures:
            return _Answer(
                {"ok": ok}, [_line(vars(signature), SignatureOutcome.SIGNED) for signature in context.signatures]
            )
        if ok.get("unsigned") is True:
            return _Answer({"ok": ok})
        log.error("a signing handler recorded no signature", kind=kind)
        return _Answer({"failed": "the handler recorded no signature"})

    def _context(self) -> SignerContext:
        return SignerContext(self.keys, self.db, self.settings, self.folder, self.counts, memory=self._memory)

    def _over_limit(self, kind: str) -> _Answer | None:
        """Refuse what is over the limit; the first in a minute is logged as a refusal, the others only answered."""
        wait = self._limiter.wait_for(kind)
        if not wait:
            return None
        bucket, now = kind if kind in self.signing else "unknown", time.monotonic()
        with self._lock:
            tell = now - self._told.get(bucket, -QUIET) >= QUIET
            if tell:
                self._told[bucket] = now
        reason = "more requests of this kind than the signer's rate limit allows"
        return _refusal(SignatureRefused(reason, retry_after=max(1, round(wait)), quiet=not tell))

    def _own(self, kind: str, fields: Mapping[str, Any]) -> _Answer:
        """Answer the requests that sign nothing: is it there, a public key, the log."""
        try:
            return _Answer({"ok": self._look_up(kind, fields)})
        except LachanError as error:
            return _refusal(error)

    def _look_up(self, kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
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


def _call(sign: Callable[..., dict[str, Any]], item: dict[str, Any], *seen: Any) -> dict[str, Any]:
    context: SignerContext
    *rest, context = seen
    return sign(context, item, *rest)


def _line(fields: Mapping[str, Any], outcome: SignatureOutcome) -> dict[str, Any]:
    return {**{name: value for name, value in fields.items() if value or name not in _OPTIONAL}, "outcome": outcome}


def _refusal(error: LachanError) -> _Answer:
    answer: dict[str, Any] = {"refused": error.detail}
    if "retry_after" in error.fields:
        answer["retry_after"] = error.fields["retry_after"]
    if error.fields.get("quiet"):
        return _Answer(answer)
    subject = str(error.fields.get("subject", ""))[:200]
    return _Answer(
        answer, [_line({"subject": subject, "digest": "", "reason": error.detail[:500]}, SignatureOutcome.REFUSED)]
    )


def _away(error: DatabaseAway) -> _Answer:
    """Without its database the signer decides nothing: that is no refusal, and no line of its log; the caller comes again."""
    return _Answer({"failed": error.detail, "retry_after": error.fields.get("retry_after", RETRY_AFTER)})


def _failure(error: Exception, subject: str) -> _Answer:
    line = _line({"subject": subject, "digest": "", "reason": repr(error)[:200]}, SignatureOutcome.FAILED)
    return _Answer({"failed": "internal error"}, [line])


def _of_devices(path: Path) -> Iterator[tuple[datetime, str]]:
    """Moment and device of the signatures of the present hour."""
    hour = clock.now().replace(minute=0, second=0, microsecond=0)
    for line in siglog.since(path, hour):
        at = clock.parse(line["time"])
        if line["outcome"] == SignatureOutcome.SIGNED and line.get("device_id") and not clock.lies_ahead(at):
            yield at, line["device_id"]
