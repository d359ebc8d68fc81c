"""The status door's app: CRL, OCSP and authorities' certificates, over plain HTTP (RFC 5280 4.2.1.13, RFC 6960 A).

Plain HTTP on purpose: whoever asks whether a certificate is good cannot need a good certificate for it, and what is
served is signed. Limits: no caller is known here, so nothing else may be served.
"""

from __future__ import annotations

from typing import cast

from fastapi import FastAPI, Request

from api import middleware, problems, routing
from api.status import routes
from lachan.runtime import Runtime

BODY = 64 * 1024  # an OCSP request


async def runtime(request: Request) -> Runtime:
    """Give the open installation."""
    return cast(Runtime, request.app.state.rt)


def build(rt: Runtime, *, modules: tuple[str, ...] | None = None) -> FastAPI:
    """Compose the app from all of ``routes.ROUTES``, or from ``modules``."""
    app = FastAPI(title="lachan status door", openapi_url=None, docs_url=None, redoc_url=None)
    app.state.rt = rt
    app.state.door = "status"
    problems.install(app, challenge="None")
    routing.include(app, routes.ROUTES if modules is None else modules)
    app.add_middleware(middleware.BodyLimit, default=BODY)
    app.add_middleware(middleware.Envelope, door="status", headers=middleware.MACHINE_HEADERS)
    return app
