"""What can go wrong with playbooks, runs and containments; one line each."""

from lachan.errors import Conflict, Forbidden, Invalid, LachanError, NotFound, Unavailable


class PlaybookInvalid(Invalid):
    """A playbook file breaks the format, the schema or a lint rule; fields: file, step, line."""

    title, hint = "The playbook is not valid", "Correct the named step in the named file, sign it again, load it again."


class UnknownStepType(PlaybookInvalid):
    """A step has a type that this executor does not run; fields: file, step, line."""

    title = "The playbook has a step type that is refused"


class UnknownCommandType(PlaybookInvalid):
    """A command has a type that this executor does not run; fields: file, step, line."""

    title = "The playbook has a command type that is refused"


class ConditionInvalid(PlaybookInvalid):
    """A condition is no STIX-like comparison expression, or compares unlike types."""

    title = "A condition cannot be read"


class PlaybookUnsigned(Forbidden):
    """The playbook has no signature that we can check; fields: file, step."""

    title, hint = "The playbook is not signed", "Sign it: lachan playbooks sign FILE --key KEY."


class SignatureOutOfDate(Conflict):
    """A playbook's signature is not valid yet, or no longer (CACAO 2.0 10.16: valid_from, valid_until)."""

    title, hint = "The signature is out of its dates", "Have the operator sign the playbook again and load it."


class SignatureInvalid(Forbidden):
    """The signature does not fit the bytes of the playbook; fields: file, step."""

    title, hint = (
        "The playbook's signature does not hold",
        "Somebody changed it after signing: review it, then sign again.",
    )


class SignerUntrusted(Forbidden):
    """The signer is not on the trust list; fields: file, step, signer."""

    title, hint = "The playbook's signer is not trusted", "An administrator adds signers: lachan playbooks trust PEM."


class SignerRevoked(SignerUntrusted):
    """The signer was on the trust list and was taken off; fields: file, step, signer."""

    title = "The playbook's signer is revoked"


class PlaybookRolledBack(Conflict):
    """The version is older than one that was loaded or run before; fields: file, step, version, newest."""

    title, hint = "The playbook is older than the last one", "Give it a later `modified` time and sign it again."


class PlaybookRevoked(Forbidden):
    """The playbook says of itself that it is revoked (CACAO `revoked`)."""

    title, hint = "The playbook is revoked by its author", "Load a version that is not revoked."


class LostFence(LachanError):
    """Another worker has taken the run over; this one must stop writing."""

    title, hint = "The run belongs to another worker now", "Nothing: the other worker finishes it."


class StepFailed(LachanError):
    """An action failed; the run follows `on_failure`."""

    status, title = 502, "The playbook's action failed"


class OutcomeUnknown(LachanError):
    """Between intent and outcome the worker died, and the peer cannot tell repeated requests apart."""

    status, title, hint = 409, "It is unknown whether the action happened", "Look at the peer, then resolve the run."


class NotWaiting(Conflict):
    """The run or containment does not wait for anybody."""

    title, hint = "Nothing is waiting for this decision", "Show it again; somebody else may have decided."


class ShownChanged(Conflict):
    """What waits for approval is not what the person was shown: alerts came, or what is asked has changed."""

    title, hint = (
        "It has changed since you looked",
        "Read it again with the alerts that came, then approve what it says now.",
    )


class FourEyes(Forbidden):
    """The same person may not give two of the needed decisions."""

    title, hint = "Another person must decide", "Ask a colleague with the approver's role to sign in and decide."


class TargetProtected(Forbidden):
    """The device is one of lachan's own dependencies; it can never be contained."""

    title, hint = "The device is protected", "It stands in the setting `protected`; act by hand outside lachan."


class NotBound(Forbidden):
    """An alert without a bound subject may not contain."""

    title, hint = "The alert has no bound subject", "Read the alert; a human may propose a containment."


class EvidenceTooThin(Forbidden):
    """Attempts seen by one source never contain automatically (design decision 8)."""

    title, hint = "The evidence does not allow an automatic containment", "A human may propose a containment."


class HumanOnly(Forbidden):
    """Eviction is a human's act; no playbook may ask for it."""

    title, hint = "Only a human may do this", "Propose it yourself: lachan contain propose DEVICE --level evict."


class ReleaseNotPossible(Conflict):
    """The containment has ended already, or never began."""

    title, hint = "There is nothing to release", "Show the containment again."


class PointUnavailable(Unavailable):
    """An enforcement point does not answer; the reconciler tries again."""

    title = "An enforcement point does not answer"


class UnknownContainment(NotFound):
    """No such containment, or it is another vendor's."""


class UnknownRun(NotFound):
    """No such run, or it is another vendor's."""


class UnknownPlaybook(NotFound):
    """No such playbook is loaded."""
