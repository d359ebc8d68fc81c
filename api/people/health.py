"""For load balancers and Prometheus: alive, ready, metrics."""

from typing import Annotated

import prometheus_client
import sqlalchemy as sa
from fastapi import APIRouter, Depends
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from api.people.access import may, runtime
from api.problems import documented
from lachan import metrics, trust
from lachan.errors import DatabaseAway, Unavailable
from lachan.identity import Permission, Principal
from lachan.runtime import Runtime
from lachan.wiring import resolve
from lachan.work import jobs, outbox

router = APIRouter(tags=["health"])


class NotReady(Unavailable):
    """The database does not answer."""

    title, hint = "Not ready", "Run `lachan doctor`."


class Health(BaseModel):
    """A sign of life."""

    status: str = "ok"


@router.get("/livez", summary="Alive?")
async def read_livez() -> Health:
    """Answer as long as the process runs; ask nothing else."""
    return Health()


@router.get("/readyz", summary="Ready?", responses=documented(503))
def read_readyz(rt: Annotated[Runtime, Depends(runtime)]) -> Health:
    """Answer when the database does."""
    try:
        with rt.db.read() as connection:
            connection.execute(sa.text("SELECT 1"))
    except (sa.exc.SQLAlchemyError, DatabaseAway) as error:
        raise NotReady("The database does not answer.") from error
    return Health()


@router.get("/metrics", summary="Prometheus metrics", response_class=PlainTextResponse)
def read_metrics(
    rt: Annotated[Runtime, Depends(runtime)], caller: Annotated[Principal, Depends(may(Permission.METRICS_READ))]
) -> PlainTextResponse:
    """Give this process's metrics, and what the installation counts by index, in the Prometheus text format.

    A database that does not answer makes the gauges of the installation NaN: an old number would look like news.
    """
    try:
        with rt.db.read() as connection:
            metrics.jobs_poisoned.set(jobs.poisoned(connection))
            metrics.events_total.set(outbox.newest(connection))
            metrics.contained.set(trust.contained(connection))
        metrics.unhealthy.set(sum(len(resolve(name)(rt)) for name in rt.wiring.health))
    except (sa.exc.SQLAlchemyError, DatabaseAway):
        for gauge in (metrics.jobs_poisoned, metrics.events_total, metrics.contained, metrics.unhealthy):
            gauge.set(float("nan"))
    return PlainTextResponse(prometheus_client.generate_latest(), media_type=prometheus_client.CONTENT_TYPE_LATEST)
