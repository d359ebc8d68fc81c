"""For load balancers and Prometheus: alive, ready, metrics."""

from typing import Annotated

import prometheus_client
import sqlalchemy as sa
from fastapi import APIRouter, Depends
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field

from api.people.access import may, runtime
from api.problems import documented
from lachan import clock, health, metrics, trust
from lachan.errors import DatabaseAway, Unavailable
from lachan.health import HealthState
from lachan.identity import Permission, Principal
from lachan.runtime import Runtime
from lachan.wiring import Lane
from lachan.work import jobs, outbox
from siem_rules import forgotten

router = APIRouter(tags=["health"])


class NotReady(Unavailable):
    """Nothing can be written or served now; ``detail`` says why, ``checks`` what is in order."""

    title, hint = "Not ready", "Run `lachan doctor`."


class Health(BaseModel):
    """A sign of life."""

    status: str = "ok"


class Readiness(BaseModel):
    """Whether requests may be sent here, and what moves; `lachan doctor` tells what to do."""

    status: HealthState = Field(description="The worst of the checks; wrong or unknown is still ready.")
    checks: dict[str, HealthState] = Field(examples=[{"database": "ok", "disk": "ok", "sealing": "wrong"}])


@router.get("/livez", summary="Alive?")
async def read_livez() -> Health:
    """Answer as long as the process runs; ask nothing else."""
    return Health()


@router.get("/readyz", summary="Ready?", responses=documented(503))
def read_readyz(rt: Annotated[Runtime, Depends(runtime)]) -> Readiness:
    """Answer when requests can be served and writes be taken; tell besides whether everything moves.

    The database is asked each time; the rest was looked at a few seconds ago at most.
    """
    found = [health.Checked("database", tuple(health.database(rt)))]
    found = [*(one for one in health.now(rt) if one.name != "database"), *found]
    states = {one.name: one.state for one in found}
    if grave := [problem.what for one in found for problem in one.problems if problem.grave]:
        raise NotReady(" ".join(grave), checks=states)
    worst = max(states.values(), key=list(HealthState).index, default=HealthState.UNKNOWN)
    return Readiness(status=worst, checks=states)


@router.get("/metrics", summary="Prometheus metrics", response_class=PlainTextResponse)
def read_metrics(
    rt: Annotated[Runtime, Depends(runtime)], caller: Annotated[Principal, Depends(may(Permission.METRICS_READ))]
) -> PlainTextResponse:
    """Give the door's metrics, all its processes together, and what the installation counts by index, in the Prometheus text format.

    A database that does not answer makes the gauges of the installation NaN: an old number would look like news.
    """
    try:
        with rt.db.read() as connection:
            metrics.jobs_poisoned.set(jobs.poisoned(connection))
            metrics.events_total.set(outbox.newest(connection))
            metrics.contained.set(trust.contained(connection))
            oldest = {lane: jobs.oldest(connection, lane) for lane in Lane}
            gone = forgotten.counts(connection)
        now = clock.now()
        for lane, due in oldest.items():
            metrics.jobs_waited.labels(str(lane)).set(max(0.0, (now - (due or now)).total_seconds()))
        for what in ("groups", "matches", "ids"):
            metrics.forgotten.labels(what).set(gone.get(what, 0))
    except (sa.exc.SQLAlchemyError, DatabaseAway):
        waited = [metrics.jobs_waited.labels(str(lane)) for lane in Lane]
        for gauge in (metrics.jobs_poisoned, metrics.events_total, metrics.contained, *waited):
            gauge.set(float("nan"))
    found = health.now(rt)
    for one in found:
        metrics.health.labels(one.name).set(_GAUGE[one.state])
    metrics.unhealthy.set(sum(one.state is not HealthState.OK for one in found))
    return PlainTextResponse(metrics.exposition(), media_type=prometheus_client.CONTENT_TYPE_LATEST)


_GAUGE = {HealthState.OK: 1.0, HealthState.WRONG: 0.0, HealthState.UNKNOWN: float("nan")}
