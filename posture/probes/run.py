"""One run over one device: see which ports are open, then let each probe look that the engagement approved.

One connection at a time, paced by the socket factory. Everything that could not be looked at becomes an observation that
says why; nothing here raises for a device's sake.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from posture.probes import banner, login, sweep, tls, web
from posture.probes.observation import Observation, Outcome, observe
from posture.probes.probe import Inputs, Probe
from posture.probes.target import ProbeTarget

TABLE: tuple[Probe, ...] = (sweep.PROBE, banner.PROBE, tls.PROBE, web.PROBE, login.PROBE)
"""Every probe there is, in the order in which they look: each may use what those before it found."""
PROBES: dict[str, tuple[str, ...]] = {probe.method: probe.names for probe in TABLE}
"""What is answered for, by the method that must be approved for it; what is not here is not implemented."""


def run(
    target: ProbeTarget, *, paths: Iterable[Mapping[str, str]], pairs: Iterable[Mapping[str, str]]
) -> tuple[Observation, ...]:
    """Look at a device with every approved method.

    Args:
        target: the device, its scope and budget.
        paths: rows of ``criteria/paths.yaml``.
        pairs: rows of ``criteria/credentials.yaml``.

    Returns:
        Observations in the order they were made; at least one for every probe of every approved method.
    """
    return tuple(looked(target, paths=paths, pairs=pairs))


def looked(
    target: ProbeTarget, *, paths: Iterable[Mapping[str, str]], pairs: Iterable[Mapping[str, str]]
) -> Iterator[Observation]:
    """Give the observations of `run` as they are made: what was seen is not lost with who saw it."""
    inputs = Inputs(target, tuple(paths), tuple(pairs))
    found: list[Observation] = []
    for probe in TABLE:
        if probe is sweep.PROBE or (inputs.opened and target.allows(probe.method)):
            seen = probe.look(inputs)
            found += seen
            yield from seen
    for probe, name in unsaid(found):
        yield _why(inputs, name, probe.method, found)


def unsaid(found: Iterable[Observation]) -> list[tuple[Probe, str]]:
    """Give each probe's names of which no observation speaks."""
    said = {observation.probe for observation in found}
    return [(probe, name) for probe in TABLE for name in probe.names if name not in said]


def _why(inputs: Inputs, name: str, method: str, found: list[Observation]) -> Observation:
    """Tell why a probe has nothing to say; only "no such service" counts as having looked."""
    refused = next((o for o in found if o.outcome is Outcome.NOT_AUTHORISED and o.code != "method_not_allowed"), None)
    used_up = next((o for o in found if o.code in ("time_box", "byte_budget")), None)
    host = inputs.target.host
    if not inputs.target.allows(method):
        text = f"the engagement does not approve {method}"
        return observe(name, Outcome.NOT_AUTHORISED, "method_not_allowed", text)
    if refused:
        return observe(name, Outcome.NOT_AUTHORISED, refused.code, refused.detail)
    if used_up:
        return observe(name, Outcome.ERROR, used_up.code, used_up.detail)
    if inputs.silent:
        return observe(name, Outcome.UNREACHABLE, "unreachable", inputs.silent, address=host)
    if not inputs.opened:
        return observe(name, Outcome.UNREACHABLE, "all_closed", "every port refused the connection", address=host)
    return observe(name, Outcome.SILENT, "no_service", "no such service on the ports looked at", address=host)
