"""The device door's app: routes of the rooms behind one guard, and the machinery that keeps trust fresh.

`build` composes it; `Door` runs its threads and closes live connections. Nothing is served until a first trust view
was asked for; without one every request is refused.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from fastapi import Depends, FastAPI
from starlette.types import Receive, Scope, Send

from api import machine, metrics, middleware, problems, routing
from api.device import access, routes
from api.device.desk import DeviceDesk
from api.device.reporter import Reporter
from api.device.trustwatch import News, TrustWatch
from api.tls import TlsDoor
from lachan.addresses import written
from lachan.errors import LachanError
from lachan.runtime import Runtime
from lachan.signer.link import SignerLink
from pki import service

BODY = 1024 * 1024
LARGER = ((r"(/[^/]+)?/_bulk", 32 * 1024 * 1024),)


def build(rt: Runtime, *, modules: tuple[str, ...] | None = None) -> FastAPI:
    """Compose the app.

    Args:
        rt: The open installation.
        modules: Modules with routes; all of ``routes.ROUTES`` by default (tests add theirs).

    Raises:
        RuntimeError: If an exception in ``routes`` names no route, or a machine route's ``auth`` says something else.
    """
    app = machine.DoorApp(title="lachan device door", openapi_url=None, docs_url=None, redoc_url=None)
    app.state.rt, app.state.desk = rt, DeviceDesk(rt)
    app.state.door = "device"
    app.state.bonds = access.Bonds()
    app.state.issuing = service.OnLoop(rt, SignerLink(rt.settings.signer_path))
    problems.install(app, challenge="Certificate")
    routing.include(app, routes.ROUTES if modules is None else modules, dependencies=[Depends(access.guard)])
    table = machine.table(routes.ROUTES if modules is None else modules)
    machine.check(table, open_operations=routes.OPEN)
    routing.check_exceptions(app, routes.OPEN | routes.WITHHELD_WHEN_LIMITED | routes.REMEDIES)
    app.add_middleware(middleware.BodyLimit, default=BODY, larger=LARGER)
    app.add_middleware(middleware.Envelope, door="device", headers=middleware.MACHINE_HEADERS)
    front = machine.MachineDispatcher(
        app.behind, door="device", table=table, shared=app, verified=access.verified, known=access.known
    )
    app.closing.append(app.state.desk.close)
    forwarding = _ForwardedChain(front, proxies=frozenset(rt.settings.proxies))
    app.front, app.ready = forwarding, forwarding.ready
    return app


class Door:
    """The running device door: app, TLS, trust watch, reporter.

    Args:
        rt: The open installation.
        app: What `build` made.
        tls: The door's TLS side; None in tests without TLS.
    """

    def __init__(self, rt: Runtime, app: FastAPI, tls: TlsDoor | None) -> None:
        self._tls = tls
        self._issuing: service.OnLoop = app.state.issuing
        self._bonds: access.Bonds = app.state.bonds
        if tls is not None:
            tls.gone = self._bonds.gone
        self._loop: asyncio.AbstractEventLoop | None = None
        self.reporter = Reporter(rt)
        self.trust = TrustWatch(rt, on_news=self._on_news)
        app.state.trust = self.trust
        app.state.seen = self.reporter

    async def start(self) -> None:
        """Take a first view and start the threads; call before the first request."""
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self.trust.start)
        self.reporter.start()

    async def close(self) -> None:
        """Hang up on the signer; on the loop that served, after its last request."""
        await self._issuing.close()

    def stop(self) -> None:
        """End the threads."""
        self.trust.stop()
        self.reporter.stop()

    def _on_news(self, news: News) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._act, news)

    def _act(self, news: News) -> None:
        closed: Counter[str] = Counter()
        for bond in self._bonds.of(news.changes):
            bond.changed = True
            device_id = access.must_close(news.known.view, bond)
            if device_id is not None:
                bond.connection.cut()
                closed[device_id] += 1
        metrics.sessions_closed.inc(closed.total())
        metrics.connections.set(len(self._tls.live) if self._tls else 0)
        self.reporter.acted(news.position, dict(closed))


_FORWARDED = frozenset({b"client-cert", b"client-cert-chain"})


class _ForwardedChain:
    """Take RFC 9440 headers from listed proxies, and remove them from everybody else's requests."""

    def __init__(self, app: machine.MachineDispatcher, *, proxies: frozenset[str]) -> None:
        self.app, self.proxies = app, frozenset(map(written, proxies))

    def ready(self, scope: Scope) -> tuple[bytes, bytes, bytes] | None:
        """Give what the dispatcher can say at once; who comes through a proxy goes the long way."""
        if self.proxies and written((scope.get("client") or ("",))[0]) in self.proxies:
            return None
        return self.app.ready(scope)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (self.proxies or any(name in _FORWARDED for name, _ in scope["headers"])):
            named = {b"client-cert": "", b"client-cert-chain": ""}
            for name, value in scope["headers"]:
                if name in named:
                    named[name] += ("," if named[name] else "") + value.decode("latin-1")
            scope["headers"] = [pair for pair in scope["headers"] if pair[0] not in named]
            if written((scope.get("client") or ("",))[0]) in self.proxies:
                try:
                    chain = access.forwarded_chain(named[b"client-cert"], named[b"client-cert-chain"])
                except LachanError:
                    chain = [b""]  # judged as malformed by the guard
                scope["lachan.forwarded_chain"] = chain
        await self.app(scope, receive, send)
