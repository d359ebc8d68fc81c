"""The people door's app: the API of people and platforms, and the console.

`build` composes routes, problems and middleware. No route is reachable without ``may(…)`` unless ``routes.OPEN`` names
it: the app does not start otherwise.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from api import middleware, problems, routing
from api.device import routes as device_routes
from api.people import routes
from api.people.idempotency import Idempotency
from api.people.strictness import Strictness
from api.status import routes as status_routes
from lachan.runtime import Runtime
from lachan.settings import Settings

BODY = 1024 * 1024
LARGER = (
    (r"(/[^/]+)?/_bulk", 32 * 1024 * 1024),
    ("/api/v1/devices/import", 32 * 1024 * 1024),
    (r"/api/v1/artifacts(/.*)?", 4 * 1024 * 1024 * 1024),
)
_ABOUT = """
Who each device is, what it runs, how it behaves, whether it is fit, and what happens to it when it is not.

**Signing in.** People: `POST /api/v1/session` with the token of their one-time link; the session is a cookie, and every
write carries its CSRF token in `X-CSRF-Token`. Machines: `Authorization: Bearer lachan_…`.

**Lists** come in pages: send `next` back as `cursor`. **Writes** may carry an `Idempotency-Key`; sent again with the same
key they are not done again. **Refusals** are problem documents (RFC 9457) with a `code` and a `hint`. **ETags** on every
GET; `If-Match` guards a PATCH.
"""
_TAGS = [
    {"name": "session", "description": "Signing in and out."},
    {"name": "devices", "description": "The registry: who each device is, and its timeline."},
    {"name": "certificates", "description": "Enrolment secrets and certificates of one device."},
    {"name": "firmware", "description": "Artifacts, releases, approvals, signatures."},
    {"name": "posture", "description": "Criteria, engagements, assessments, verdicts."},
    {"name": "logs", "description": "Log lines in, as Elasticsearch's `_bulk` takes them; rules that read them."},
    {"name": "alerts", "description": "What the rules found, and what people did about it."},
    {"name": "playbooks", "description": "Signed playbooks; propose or enforce."},
    {"name": "runs", "description": "Playbook runs, step by step, and what waits for people."},
    {"name": "containment", "description": "Which device is kept from what, and the way back."},
    {"name": "trust", "description": "One decision per device, with its reasons."},
    {"name": "events", "description": "The feed of facts, in order."},
    {"name": "ledger", "description": "Checkpoints, proofs and exports that are verified without us."},
    {"name": "access", "description": "People and tokens."},
    {"name": "est", "description": "Device door: enrolment and renewal of certificates (RFC 7030)."},
    {"name": "device", "description": "Device door: what a device may learn of itself."},
    {"name": "status", "description": "Status door: CRLs, OCSP and certificates of authorities."},
    {"name": "health", "description": "For load balancers and Prometheus."},
]


def build(rt: Runtime, *, modules: tuple[str, ...] | None = None) -> FastAPI:
    """Compose the app.

    Args:
        rt: The open installation.
        modules: Modules with routes; all of ``routes.ROUTES`` by default.

    Raises:
        RuntimeError: If an operation has no ``may(…)`` and is not in ``routes.OPEN``, or that names no route.
    """
    app = FastAPI(
        title="lachan",
        version="1",
        description=_ABOUT,
        openapi_tags=_TAGS,
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=_operation_id,
        responses=problems.documented(400, 401, 403, 404, 409, 422),
    )
    app.state.rt = rt
    app.state.door = "people"
    app.state.validating = asyncio.Semaphore(1)  # files of `api.people.v1.imports`: more would crowd out everybody else
    problems.install(app, challenge='Bearer realm="lachan"')
    routing.include(app, routes.ROUTES if modules is None else modules)
    routing.check_exceptions(app, routes.OPEN)
    _check_permissions(app)
    app.add_middleware(Strictness)
    app.add_middleware(middleware.EntityTags)
    app.add_middleware(Idempotency)
    app.add_middleware(middleware.BodyLimit, default=BODY, larger=LARGER)
    app.add_middleware(middleware.Envelope, door="people", headers=middleware.PEOPLE_HEADERS)
    _describe(app)
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name


def _check_permissions(app: FastAPI) -> None:
    for route in routing.api_routes(app):
        named = {f"{method} {route.path}" for method in route.methods or ()}
        if not named <= routes.OPEN and not routing.permissions(route):
            raise RuntimeError(f"{', '.join(sorted(named))} has no may(…) and is not in api.people.routes.OPEN")


def _machine_paths(settings: Settings) -> dict[str, Any]:
    """Describe the routes of the other two doors, each with the address that it is asked at."""
    found: dict[str, Any] = {}
    for modules, url, door in (
        (device_routes.ROUTES, settings.device_url, "device door: mutual TLS with the device's certificate"),
        (status_routes.ROUTES, settings.status_url, "status door: plain HTTP, asked by anybody"),
    ):
        app = FastAPI(generate_unique_id_function=_operation_id)
        routing.include(app, modules)
        document = app.openapi()
        for path, item in document["paths"].items():
            found[path] = {"servers": [{"url": url, "description": door}], **item}
        found.setdefault("", {}).update(document.get("components", {}).get("schemas", {}))
    return found


def _describe(app: FastAPI) -> None:
    """Put the problem document, which every refusal refers to, and the machine routes of the other doors into the OpenAPI."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            schema = generate()
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            schemas["Problem"] = problems.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            others = _machine_paths(app.state.rt.settings)
            schemas |= others.pop("")
            for path, item in others.items():
                schema["paths"].setdefault(path, item)  # `_bulk` stands at both doors alike
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]
