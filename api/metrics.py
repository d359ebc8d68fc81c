"""What the doors measure besides what `lachan.metrics` names. Labels are closed sets: nobody can make new series."""

from __future__ import annotations

from typing import Any

from prometheus_client import Counter, Gauge

from lachan import metrics

sessions_closed = Counter("lachan_device_sessions_closed_total", "Live connections closed by a trust decision.")
connections = Gauge(
    "lachan_device_connections", "Open TLS connections of the device door.", multiprocess_mode="livesum"
)
snapshot_version = Gauge(
    "lachan_trust_snapshot_version",
    "Version of the view of trust that the device door acts on.",
    multiprocess_mode="livemin",
)


def observe_request(scope: Any, *, door: str, status: int, duration: float) -> None:
    """Count one answered request.

    Args:
        scope: The request's ASGI scope; its route's path is the label, ``-`` when no route matched.
        door: device, people or status.
        status: HTTP status.
        duration: Seconds.
    """
    path = getattr(scope.get("route"), "path", "-")
    metrics.requests.labels(door, path, str(status)).inc()
    metrics.request_seconds.labels(door).observe(duration)
