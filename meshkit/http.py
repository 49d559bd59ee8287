# SPDX-License-Identifier: Apache-2.0
"""The small HTTP server every program has: /healthz, /readyz, /metrics, and what the program adds."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import uvicorn
from fastapi import FastAPI, Response

from meshkit.health import Health
from meshkit.metrics import CONTENT_TYPE, Registry

STOP_WITHIN_S = 2.0


def make_app(title: str, version: str, health: Health, registry: Registry) -> FastAPI:
    """An application with the three paths every operator expects; OpenAPI is served at /openapi.json."""
    app = FastAPI(title=title, version=version, docs_url=None, redoc_url=None)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process runs and its loop turns."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz(response: Response, verbose: bool = False) -> dict[str, Any]:
        """200 when every component serves, else 503; `verbose` lists them."""
        ready = health.is_ready()
        response.status_code = 200 if ready else 503
        reports = health.snapshot()
        wanted = reports if verbose else {n: r for n, r in reports.items() if r.level not in ("ok", "degraded")}
        components = {n: {"level": str(r.level), "message": r.message, "since": r.since_s} for n, r in wanted.items()}
        return {"ready": ready, "components": components}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Every metric, in Prometheus' text format."""
        return Response(registry.expose(), media_type=CONTENT_TYPE)

    return app


async def serve(
    app: FastAPI,
    hosts: str | Sequence[str] = "127.0.0.1",
    port: int = 0,
    *,
    sockets: Sequence[socket.socket] | None = None,
) -> None:
    """Serve until cancelled, on every host of `hosts` or on sockets already bound. Raises OSError when a port is taken."""
    bound = (
        list(sockets)
        if sockets is not None
        else [bind(h, port) for h in ([hosts] if isinstance(hosts, str) else hosts)]
    )
    config = uvicorn.Config(
        app, log_config=None, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=1
    )
    server = _QuietServer(config)
    task = asyncio.create_task(server.serve(sockets=bound), name="http server")
    try:
        await asyncio.shield(task)
    finally:
        server.should_exit = True
        with contextlib.suppress(TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(STOP_WITHIN_S):
                await task
        for sock in bound:
            sock.close()


def bind(host: str, port: int) -> socket.socket:
    """A listening TCP socket; port 0 lets the kernel choose."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(1024)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


class _QuietServer(uvicorn.Server):
    """uvicorn without signal handlers: the program decides when to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
