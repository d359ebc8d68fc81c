"""Whether the signer answers."""

from collections.abc import Iterable

from lachan.health import Standstill
from lachan.runtime import Runtime
from lachan.signer.errors import SignerUnavailable


def check(rt: Runtime) -> Iterable[Standstill]:
    """Ask it for a sign of life."""
    try:
        rt.signer.request("ping")
    except SignerUnavailable:
        return [
            Standstill(
                what="The signer does not answer: no certificate, CRL, release or checkpoint is signed.",
                next="See that the role sign runs; what waits for it goes on by itself.",
            )
        ]
    return []
