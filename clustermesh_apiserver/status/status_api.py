# SPDX-License-Identifier: Apache-2.0
"""The REST face: health, metrics, the status of this cluster and, asked for, of all its agents."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import msgspec
from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse

from clustermesh_apiserver.status.agents import ask_agents
from clustermesh_apiserver.status.kv_api import add_routes
from clustermesh_apiserver.status.metrics import make_registry
from clustermesh_apiserver.status.program_status import VERSION, make_status, report_health
from meshkit.health import Health
from meshkit.http import json_response, make_app, serve
from meshmodel.keys import Kind

if TYPE_CHECKING:
    from clustermesh_apiserver.run import Apiserver


def make_status_app(apiserver: Apiserver) -> FastAPI:
    """The application; every answer is made from the parts as they are at that moment."""
    health = Health()
    app = make_app(
        "clustermesh-apiserver",
        VERSION,
        health,
        make_registry(apiserver),
        ready=lambda: report_health(apiserver, health),
    )

    @app.get("/v1/status", tags=["status"])
    async def status(nodes: bool = False) -> Response:
        """This cluster as it publishes itself; with nodes=true, what every agent says too."""
        port = apiserver.settings.agent_status_port
        agents = await ask_agents(list(apiserver.tables.nodes.rows()), port) if nodes else None
        return json_response(make_status(apiserver, health, agents))

    @app.get("/v1/clusters", tags=["status"])
    async def clusters() -> Response:
        """The peers this program mirrors."""
        return json_response(apiserver.peers())

    @app.get("/v1/services", tags=["status"])
    async def services(ns: str = "") -> Response:
        """The service records that peers can read, as published."""
        return json_response(_records(apiserver, Kind.SERVICES, f"{ns}/" if ns else ""))

    @app.get("/v1/certs", tags=["status"])
    async def certs() -> Response:
        """What we show to clients, and whose word we take."""
        return json_response([{"role": role, **asdict(info)} for role, info in apiserver.front.certificates()])

    @app.get("/v1/tables", tags=["debug"], response_class=PlainTextResponse)
    async def tables() -> PlainTextResponse:
        """What this program knows of its own cluster, as text."""
        return PlainTextResponse(apiserver.tables.dump() + "\n")

    add_routes(app, apiserver)
    return app


async def serve_status(apiserver: Apiserver) -> None:
    """The REST face is served until cancelled."""
    settings = apiserver.settings

    def started(port: int) -> None:
        apiserver.status_port = port

    app = make_status_app(apiserver)
    await serve(app, settings.status_address, settings.status_port, on_started=started)


def _records(apiserver: Apiserver, kind: Kind, prefix: str) -> list[dict[str, Any]]:
    store = apiserver.publisher.stores.get(kind) if apiserver.publisher is not None else None
    wanted = store.wanted if store is not None else {}
    found = sorted(key.decode() for key in wanted if key.startswith(prefix.encode()))
    return [{"service": key, "record": msgspec.Raw(wanted[key.encode()])} for key in found]
