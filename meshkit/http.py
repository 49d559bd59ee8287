# SPDX-License-Identifier: Apache-2.0
"""The HTTP side every program has: health, readiness, metrics, and a server that stops when its task is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from meshkit.docs_page import render_docs
from meshkit.guard import App
from meshkit.health import Health, HealthLevel
from meshkit.metrics import CONTENT_TYPE, Registry, Scrapes
from meshkit.probe_server import Probe
from meshkit.rest import StrictRoute

GRACE_S: Final = 3
MAX_CONNECTIONS: Final = 128
FIRST_REQUEST_S: Final = 10.0
TICK_S: Final = 1.0
_NOT_READY: Final[dict[int | str, dict[str, object]]] = {
    503: {
        "description": "not ready: what is missing is named",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
}
_SIGNS: Final = {
    HealthLevel.OK: "[+]",
    HealthLevel.DEGRADED: "[~]",
    HealthLevel.STARTING: "[ ]",
    HealthLevel.FAILED: "[-]",
}


def make_app(
    title: str, version: str, health: Health, registry: Registry, *, ready: Callable[[], bool] | None = None
) -> FastAPI:
    """An application with /healthz (it lives), /readyz (503 until ready; ?verbose lists the parts), /metrics and /docs."""
    app = FastAPI(title=title, version=version, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.router.route_class = StrictRoute
    is_ready = ready or health.ready
    scrapes = Scrapes(registry)

    @app.head("/healthz", include_in_schema=False)  # load balancers ask so
    @app.get("/healthz", response_class=PlainTextResponse, tags=["health"])
    async def healthz() -> PlainTextResponse:
        """The process runs."""
        return PlainTextResponse("ok\n")

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", response_class=PlainTextResponse, tags=["health"], responses=_NOT_READY)
    async def readyz(verbose: str | None = None) -> PlainTextResponse:
        """Whether the program does its work; with `verbose`, each of its parts."""
        code, head = readiness(health, is_ready)
        text = _verbose(health) if verbose is not None else ""
        return PlainTextResponse(f"{text}{head}\n", status_code=code)

    @app.get("/metrics", response_class=PlainTextResponse, tags=["health"])
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(scrapes.text(), headers={"content-type": CONTENT_TYPE})

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(render_docs(app.openapi()))

    return app


def readiness(health: Health, is_ready: Callable[[], bool]) -> tuple[int, str]:
    """The answer to a readiness probe: 200, or 503 naming what is missing."""
    if is_ready():
        return 200, "Ready"
    return 503, "Not ready: " + (", ".join(health.blocking()) or "starting")


def probes(health: Health, is_ready: Callable[[], bool]) -> Mapping[str, Probe]:
    """What the port for probes answers."""
    return {"/healthz": lambda: (200, "ok"), "/readyz": lambda: readiness(health, is_ready)}


def bind(host: str | Sequence[str], port: int) -> list[socket.socket]:
    """Listening sockets on every address; with port 0 all share the number the first one got.

    Raises: OSError naming the address; sockets bound before it are closed.
    """
    hosts = [host] if isinstance(host, str) else list(host)
    sockets: list[socket.socket] = []
    try:
        for address in hosts:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                sock.bind((address, port))
            except OSError as exc:
                raise OSError(exc.errno, f"cannot listen on {address} port {port}: {exc.strerror}") from exc
            sock.setblocking(False)
            port = sock.getsockname()[1]
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def bind_unix(path: Path) -> socket.socket:
    """A listening unix socket that only our user may connect to; one that was left behind is replaced.

    Raises: OSError naming the path.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
        sock.setblocking(False)
    except OSError as exc:
        sock.close()
        raise OSError(exc.errno, f"cannot listen on {path}: {exc.strerror or exc}") from exc
    return sock


async def serve(
    app: App,
    host: str | Sequence[str] = "127.0.0.1",
    port: int = 0,
    *,
    sockets: Sequence[socket.socket] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    on_started: Callable[[int], None] | None = None,
) -> None:
    """Serves until cancelled, then lets open requests end (at most GRACE_S seconds) and closes every socket.

    No signal handler is installed: the program decides when to stop. `on_started` gets the port, 0 for a unix socket.
    Of MAX_CONNECTIONS the one that has asked nothing for the longest makes room for the next; where all wait for answers, more
    are answered 503. One that has not sent a request after FIRST_REQUEST_S seconds is closed.
    Raises: OSError when an address cannot be bound.
    """
    listening = list(sockets) if sockets is not None else bind(host, port)
    server = _Server(app, ssl_context)
    try:
        await server.startup(sockets=listening)
        try:
            if on_started is not None:
                name = listening[0].getsockname()
                on_started(int(name[1]) if isinstance(name, tuple) else 0)
            await server.main_loop()
        finally:
            await server.shutdown(sockets=listening)
    finally:
        for sock in listening:
            with contextlib.suppress(OSError):
                sock.close()


class _Connection(H11Protocol):
    """One connection: it makes room for others while it asks nothing, and is closed if it never does."""

    _deadline: asyncio.TimerHandle | None = None
    _idle_since_s = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait a bounded time for the first request."""
        super().connection_made(transport)
        self._idle_since_s = self.loop.time()
        if len(self.connections) >= MAX_CONNECTIONS:
            self._make_room()
        if len(self.connections) > 2 * MAX_CONNECTIONS:
            transport.abort()
            return
        self._deadline = self.loop.call_later(FIRST_REQUEST_S, self._close_if_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Nothing is owed to the client until it has sent another request."""
        self._idle_since_s = self.loop.time()
        super().on_response_complete()

    def _make_room(self) -> None:
        """The connection that has asked nothing for the longest is closed, be it that it sends a request byte by byte."""
        idle = [c for c in self.connections if isinstance(c, _Connection) and c is not self and c.asks_nothing]
        if idle:
            oldest = min(idle, key=lambda c: c._idle_since_s)
            self.connections.discard(oldest)
            oldest.transport.abort()

    @property
    def asks_nothing(self) -> bool:
        """No request of it waits for an answer."""
        return self.cycle is None or self.cycle.response_complete

    def _close_if_silent(self) -> None:
        if self.cycle is None:
            self.transport.close()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, its start banner and its ten ticks a second."""

    def __init__(self, app: App, ssl_context: ssl.SSLContext | None) -> None:
        config = uvicorn.Config(
            app,
            http=_Connection,
            ws="none",
            log_config=None,
            access_log=False,
            lifespan="on",
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=GRACE_S,
            server_header=False,
        )
        config.load()
        if ssl_context is not None:
            config.ssl = ssl_context
        super().__init__(config)
        self.lifespan = config.lifespan_class(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        ticks_per_s = 10  # what on_tick counts in
        # each tick renews the Date header; cancellation ends it
        while not await self.on_tick(ticks_per_s):  # noqa: ASYNC110
            await asyncio.sleep(TICK_S)


def _verbose(health: Health) -> str:
    return "".join(
        f"{_SIGNS[part.level]} {name}{f': {part.message}' if part.message else ''}\n"
        for name, part in health.snapshot().items()
    )
