"""What the doors' apps have in common: looking at their routes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.params import Depends
from fastapi.routing import APIRoute, iter_route_contexts


def include(app: FastAPI, modules: tuple[str, ...], *, dependencies: list[Depends] | None = None) -> None:
    """Include each module's ``router``.

    Raises:
        RuntimeError: If a router hides behind another one's prefix: the guards compare paths as the route has them.
    """
    for name in modules:
        app.include_router(import_module(name).router, dependencies=dependencies)
    for context in iter_route_contexts(app.routes):
        route = context.original_route
        if isinstance(route, APIRoute) and route.path != context.path:
            raise RuntimeError(f"{context.path}: give the prefix to the APIRouter that has the routes")


def api_routes(app: FastAPI) -> list[APIRoute]:
    """Give the app's own routes, in order."""
    found = (context.original_route for context in iter_route_contexts(app.routes))
    return [route for route in found if isinstance(route, APIRoute)]


def operations(app: FastAPI) -> set[str]:
    """All operations as ``METHOD /path``."""
    return {f"{method} {route.path}" for route in api_routes(app) for method in route.methods or ()}


def check_exceptions(app: FastAPI, named: frozenset[str]) -> None:
    """Check that every operation that a list of exceptions names does exist.

    Raises:
        RuntimeError: If one does not: a mistyped exception would guard nothing, or open nothing.
    """
    unknown = named - operations(app)
    if unknown:
        raise RuntimeError(f"exceptions name operations that no route has: {', '.join(sorted(unknown))}")


def generator_dependencies(app: FastAPI) -> list[str]:
    """Routes that depend on a generator: with it a connection waits for a thread to be given back (docs/adr/0006)."""
    return [
        f"{route.path}: {call.__qualname__}"
        for route in api_routes(app)
        for call in _calls(route.dependant)
        if inspect.isgeneratorfunction(call)
    ]


def _calls(dependant: Dependant) -> Iterator[object]:
    for child in dependant.dependencies:
        yield child.call
        yield from _calls(child)


def permissions(route: APIRoute) -> set[str]:
    """Give the permissions that a route's ``may(…)`` dependencies ask for."""
    found = (getattr(call, "permission", None) for call in _calls(route.dependant))
    return {str(permission) for permission in found if permission is not None}
