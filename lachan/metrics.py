"""Prometheus metrics that more than one room counts.

Each process has its own, but for those of a door with several processes: they keep theirs in files of a folder, which
``lachan serve`` names in ``PROMETHEUS_MULTIPROC_DIR``, and `exposition` shows all of them together.
"""

import os

import prometheus_client
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.multiprocess import MultiProcessCollector

FOLDER = "PROMETHEUS_MULTIPROC_DIR"

requests = Counter("lachan_requests_total", "Requests by door, route and status.", ["door", "route", "status"])
refused = Counter("lachan_refused_total", "Requests that the device door refused, by reason.", ["reason"])
request_seconds = Histogram("lachan_request_seconds", "Time a request took, in seconds.", ["door"])
jobs_poisoned = Gauge("lachan_jobs_poisoned", "Jobs that were given up.", multiprocess_mode="mostrecent")
events_total = Gauge("lachan_events", "Events in the ledger's table.", multiprocess_mode="mostrecent")
unhealthy = Gauge(
    "lachan_unhealthy",
    "Checks of the health that find something wrong now, or cannot tell.",
    multiprocess_mode="mostrecent",
)
health = Gauge(
    "lachan_health",
    "1: in order, 0: something does not move, NaN: it cannot be told.",
    ["check"],
    multiprocess_mode="mostrecent",
)
jobs_waited = Gauge(
    "lachan_jobs_oldest_seconds",
    "How long the oldest due job of a lane has waited, in seconds.",
    ["lane"],
    multiprocess_mode="mostrecent",
)
forgotten = Gauge(
    "lachan_evidence_forgotten",
    "What the detector forgot for want of room since the installation began; groups and matches can hide something.",
    ["what"],
    multiprocess_mode="mostrecent",
)
contained = Gauge("lachan_contained_devices", "Devices that are contained now.", multiprocess_mode="mostrecent")


def exposition() -> bytes:
    """Give this process's metrics in the Prometheus text format, summed up with those of the door's other processes."""
    if FOLDER not in os.environ:
        return prometheus_client.generate_latest()
    registry = prometheus_client.CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return prometheus_client.generate_latest(registry)
