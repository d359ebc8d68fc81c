"""The status door's app: CRL, OCSP and authorities' certificates, over plain HTTP (RFC 5280 4.2.1.13, RFC 6960 A).

Plain HTTP on purpose: whoever asks whether a certificate is good cannot need a good certificate for it, and what is
served is signed. Limits: no caller is known here, so nothing else may be served.
"""

from __future__ import annotations

from fastapi import FastAPI

from api import machine, middleware, problems, routing
from api.status import routes
from api.status.desk import StatusDesk
from lachan.runtime import Runtime

BODY = 64 * 1024  # an OCSP request


def build(rt: Runtime, *, modules: tuple[str, ...] | None = None) -> FastAPI:
    """Compose the app from all of ``routes.ROUTES``, or from ``modules``."""
    named = routes.ROUTES if modules is None else modules
    app = machine.DoorApp(title="lachan status door", openapi_url=None, docs_url=None, redoc_url=None)
    app.state.rt, app.state.door, app.state.desk = rt, "status", StatusDesk(rt)
    problems.install(app, challenge="None")
    routing.include(app, named)
    app.add_middleware(middleware.BodyLimit, default=BODY)
    app.add_middleware(middleware.Envelope, door="status", headers=middleware.MACHINE_HEADERS)
    front = machine.MachineDispatcher(app.behind, door="status", table=machine.table(named), shared=app)
    app.front, app.ready = front, front.ready
    app.closing.append(app.state.desk.close)
    return app
