# SPDX-License-Identifier: Apache-2.0
"""The HTTP side every program has: health, readiness, metrics, and a server that stops when its task is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse

from meshkit.health import Health, Level
from meshkit.metrics import CONTENT_TYPE, Registry
from meshkit.rest import StrictRoute

GRACE_S: Final = 3
TICK_S: Final = 1.0
_SIGNS: Final = {Level.OK: "[+]", Level.DEGRADED: "[~]", Level.STARTING: "[ ]", Level.FAILED: "[-]"}


def make_app(
    title: str, version: str, health: Health, registry: Registry, *, ready: Callable[[], bool] | None = None
) -> FastAPI:
    """An application with /healthz (it lives), /readyz (503 until ready; ?verbose lists the parts) and /metrics."""
    app = FastAPI(title=title, version=version)
    app.router.route_class = StrictRoute
    is_ready = ready or health.ready

    @app.get("/healthz", response_class=PlainTextResponse, tags=["health"])
    async def healthz() -> PlainTextResponse:
        return PlainTextResponse("ok\n")

    @app.get("/readyz", response_class=PlainTextResponse, tags=["health"])
    async def readyz(verbose: str | None = None) -> PlainTextResponse:
        is_ok = is_ready()
        text = _verbose(health) if verbose is not None else ""
        head = "Ready" if is_ok else "Not ready: " + (", ".join(health.blocking()) or "starting")
        return PlainTextResponse(f"{text}{head}\n", status_code=200 if is_ok else 503)

    @app.get("/metrics", tags=["health"])
    async def metrics() -> Response:
        return Response(registry.exposition(), headers={"content-type": CONTENT_TYPE})

    return app


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


async def serve(
    app: FastAPI,
    host: str | Sequence[str] = "127.0.0.1",
    port: int = 0,
    *,
    sockets: Sequence[socket.socket] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    on_started: Callable[[int], None] | None = None,
) -> None:
    """Serves until cancelled, then lets open requests end (at most GRACE_S seconds) and closes every socket.

    No signal handler is installed: the program decides when to stop. `on_started` gets the port.
    Raises: OSError when an address cannot be bound.
    """
    listening = list(sockets) if sockets is not None else bind(host, port)
    server = _Server(app, ssl_context)
    try:
        await server.startup(sockets=listening)
        try:
            if on_started is not None:
                on_started(int(listening[0].getsockname()[1]))
            await server.main_loop()
        finally:
            await server.shutdown(sockets=listening)
    finally:
        for sock in listening:
            with contextlib.suppress(OSError):
                sock.close()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, its start banner and its ten ticks a second."""

    def __init__(self, app: FastAPI, ssl_context: ssl.SSLContext | None) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="on",
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
