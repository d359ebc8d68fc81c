"""What can go wrong in the posture room."""

from __future__ import annotations

from lachan.errors import Conflict, Forbidden, Invalid, LachanError, NotFound


class ContentInvalid(LachanError):
    """A file of criteria does not hold (``fields``: file, line)."""

    status, title, hint = 500, "The criteria cannot be read", "Correct the named file and line."


class EngagementNotFound(NotFound):
    """There is no engagement of that id."""

    title, hint = "No such engagement", "`lachan engagement list` shows those there are."


class EngagementInvalid(Invalid):
    """The request names nothing, too much, or something that must be named explicitly."""

    title, hint = "The engagement cannot be requested like this", "Correct the named part and ask again."


class EngagementDecided(Conflict):
    """It was approved or stopped before."""

    title, hint = "The engagement was decided before", "Request a new one."


class OwnApproval(Forbidden):
    """Whoever requested an engagement may not approve it."""

    title, hint = "Four eyes are needed", "Ask another approver."


class NotApproved(Conflict):
    """The engagement is not approved, or does not cover this device."""

    title, hint = "No engagement covers this", "Request one, have it approved, then run again."


class DeclarationInvalid(Invalid):
    """The declaration does not match its schema (``fields``: path)."""

    title, hint = "The declaration cannot be read", "posture/criteria/declaration.schema.json says what it may hold."


class Superseded(Conflict):
    """A newer assessment of the device was recorded while this one ran."""

    title, hint = "A newer assessment exists", "Nothing to do: the newer one counts."


class AssessmentNotFound(NotFound):
    """There is no assessment of that id, or the device was never assessed."""

    title, hint = "No such assessment", "`lachan posture run DEVICE` makes one."
