"""The one base of lachan's errors, and the kinds that every room derives from.

A room's ``errors.py`` is a page of one-line classes. Each class has ``status`` (the HTTP status that ``api/problems.py``
gives it), ``title`` (what happened, fixed per class) and ``hint`` (what to do next). What belongs to one occurrence is
the ``detail`` text and the ``fields`` (file, line, step …). Nothing here knows HTTP beyond that number.
"""

import re
from typing import Any, ClassVar


class LachanError(Exception):
    """Base of all errors that lachan raises on purpose.

    Args:
        detail: what happened this time, one sentence.
        fields: JSON-able facts for the caller (``file``, ``line``, ``step`` …).
    """

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    hint: ClassVar[str] = ""

    def __init__(self, detail: str = "", **fields: Any) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.fields = fields

    @property
    def code(self) -> str:
        """The stable kebab-case name of this kind of error, from the class name."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", type(self).__name__).lower()


class NotFound(LachanError):
    """The thing does not exist, or the caller may not know that it does."""

    status, title, hint = (
        404,
        "Not found",
        "Check the id; a list request shows what you may see.",
    )


class Unauthenticated(LachanError):
    """Nobody, or nobody we can recognise, is asking."""

    status, title, hint = 401, "Sign-in required", "Sign in, or send a valid API token."


class Forbidden(LachanError):
    """The caller is known and may not do this."""

    status, title, hint = (
        403,
        "Not allowed",
        "Ask an administrator for the role that has this permission.",
    )


class Invalid(LachanError):
    """The request or the content is malformed."""

    status, title, hint = (
        422,
        "Invalid input",
        "Correct the named field and send it again.",
    )


class Conflict(LachanError):
    """The request does not fit the present state."""

    status, title, hint = (
        409,
        "Conflict with the present state",
        "Read the present state, then decide again.",
    )


class Gone(LachanError):
    """It existed and is no longer to be had."""

    status, title, hint = 410, "Gone", "Ask for a new one."


class TooLarge(LachanError):
    """The body is larger than the limit."""

    status, title, hint = 413, "Too large", "Send less at once."


class TooMany(LachanError):
    """A rate limit is reached; ``fields['retry_after']`` tells the seconds."""

    status, title, hint = (
        429,
        "Too many requests",
        "Wait as Retry-After says, then try again.",
    )


class Unavailable(LachanError):
    """A part that is needed does not answer."""

    status, title, hint = (
        503,
        "Temporarily unavailable",
        "Try again shortly; `lachan doctor` shows what is missing.",
    )


class DatabaseAway(Unavailable):
    """The database is busy, full, broken or away; whoever can wait tries again, and nothing was decided."""

    title, hint = "The database does not answer", "Try again as Retry-After says; the server's log tells since when."


class NoRoom(Unavailable):
    """A disk is full: the write was not taken, and nothing of it stays (RFC 4918 11.5)."""

    status, title = 507, "No room left"
    hint = "Try again as Retry-After says; the operator makes room where `lachan doctor` says."


class DatabaseFull(DatabaseAway):
    """The database's disk is full: the write was not taken; reading goes on."""

    status, title, hint = NoRoom.status, NoRoom.title, NoRoom.hint
