"""What can go wrong in detection: one line of meaning each."""

from lachan.errors import Invalid, LachanError, NotFound, TooMany


class RuleInvalid(Invalid):
    """A rule file cannot be used; ``fields`` carry ``file`` and ``line``."""

    title, hint = "Rule not usable", "Correct the named file at the named line; `lachan rules test` checks all of them."


class RuleUnknown(NotFound):
    """No such rule is loaded."""

    title, hint = "Rule not found", "`lachan rules list` shows the ids of the loaded rules."


class AlertUnknown(NotFound):
    """No such alert, or one of another vendor's device."""

    title, hint = "Alert not found", "`lachan alerts list` shows the ids you may see."


class AlertClosedAlready(LachanError):
    """The alert is closed; only a comment can be added."""

    status, title, hint = 409, "Alert is closed", "Add a comment, or act on the newer alert."


class BacklogFull(TooMany):
    """The detector is too far behind; ``retry_after`` (seconds) tells when to try again."""

    title, hint = "Log backlog is full", "Keep the lines and send them again after Retry-After seconds."


class SegmentsDamaged(LachanError):
    """A record of the log on disk is damaged before its end."""

    status, title = 500, "Log segment damaged"
    hint = "Move the named file aside and restore it from backup; later segments are readable."


class StreamBusy(LachanError):
    """All streams of this data folder have a living writer."""

    status, title, hint = 503, "No free log stream", "Stop one of the processes that write logs."


class DetectorReplaced(LachanError):
    """Another detector moved the checkpoint: this one must stop."""

    status, title, hint = 409, "Another detector is running", "Run one `lachan serve --role detect` per installation."


class BadTimes(Invalid):
    """A recording has a line without a time."""

    title, hint = "Line without a time", "Give each document an @timestamp in RFC 3339."
