"""Telnet, known by what a port says by itself: option negotiation or a login prompt."""

from __future__ import annotations

from lachan import patterns
from posture.probes.observation import Observation, Outcome, observe
from posture.probes.probe import Inputs, Port, Probe

NAMES = ("telnet.open", "net.telnet")
_TELNET = patterns.compile(rb"(?i)^\xff[\xfb-\xfe]|login:|username:|password:")


def look(inputs: Inputs) -> list[Observation]:
    """Judge the greetings that the sweep heard; nothing is sent."""
    host = inputs.target.host
    speaking = [port for port in inputs.opened if _is_telnet(port)]
    if speaking:
        return [
            observe(name, Outcome.CONTRADICTS, "telnet_open", "telnet answers", port=port.number, address=host,
                    raw=port.greeting)
            for port in speaking for name in NAMES
        ]  # fmt: skip
    if inputs.silent:
        return []
    text = f"no telnet on ports {', '.join(str(port.number) for port in inputs.ports)}"
    return [observe(name, Outcome.SILENT, "nothing_found", text, address=host) for name in NAMES]


def _is_telnet(port: Port) -> bool:
    return bool(_TELNET.search(port.greeting) or (port.greeting and port.number in (23, 2323)))


PROBE = Probe("banner", NAMES, look)
