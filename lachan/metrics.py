"""Prometheus metrics that more than one room counts; each process has its own, the people door shows its own."""

from prometheus_client import Counter, Gauge, Histogram

requests = Counter("lachan_requests_total", "Requests by door, route and status.", ["door", "route", "status"])
refused = Counter("lachan_refused_total", "Requests that the device door refused, by reason.", ["reason"])
request_seconds = Histogram("lachan_request_seconds", "Time a request took, in seconds.", ["door"])
jobs_poisoned = Gauge("lachan_jobs_poisoned", "Jobs that were given up.")
events_total = Gauge("lachan_events", "Events in the ledger's table.")
unhealthy = Gauge("lachan_unhealthy", "Checks of the health that find something wrong now, or cannot tell.")
health = Gauge("lachan_health", "1: in order, 0: something does not move, NaN: it cannot be told.", ["check"])
contained = Gauge("lachan_contained_devices", "Devices that are contained now.")
