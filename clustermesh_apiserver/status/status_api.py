# SPDX-License-Identifier: Apache-2.0
"""The REST interface: health, metrics, the status of this cluster and, asked for, of all its agents. Each path is typed."""

from __future__ import annotations

import asyncio

import msgspec
from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse

from certs.diagnose import diagnose_server
from clustermesh_apiserver.apiserver import Apiserver
from clustermesh_apiserver.status.agents import ask_agents
from clustermesh_apiserver.status.events import make_event_log
from clustermesh_apiserver.status.kv_api import add_routes
from clustermesh_apiserver.status.metrics import make_registry
from clustermesh_apiserver.status.program_status import make_status, report_health
from meshapi.apiserver import ApiserverStatus, CertificateRow, PublishedService, Reach
from meshapi.installed import APISERVER, TOKEN_HEADER
from meshapi.peer import RemoteCluster
from meshkit.clock import SystemClock
from meshkit.guard import Guard
from meshkit.health import Health
from meshkit.http import bind_unix, make_app, probes, serve
from meshkit.probe_server import serve_probes
from meshkit.rest import NotAnswered, Rest
from meshkit.supervise import together
from meshkit.version import program_version
from meshmodel.keys import Kind
from meshpeer.events import EventLog, add_event_routes


def make_status_app(apiserver: Apiserver, health: Health, events: EventLog) -> FastAPI:
    """The application; every answer is made from the parts as they are at that moment."""
    app = make_app(
        APISERVER,
        program_version(),
        health,
        make_registry(apiserver),
        ready=lambda: report_health(apiserver, health),
    )
    rest = Rest(app)

    @rest.get("/v1/status", ApiserverStatus, tag="status")
    async def status(nodes: bool = False) -> ApiserverStatus:
        """This cluster as it publishes itself; with nodes=true, what every agent says too."""
        port = apiserver.settings.agent_status_port
        agents = None
        if nodes:
            agents = await ask_agents(list(apiserver.tables.nodes.rows()), port, await _agent_token(apiserver))
        return make_status(apiserver, health, agents)

    @rest.get("/v1/clusters", list[RemoteCluster], tag="status")
    async def clusters() -> list[RemoteCluster]:
        """The peers this program mirrors."""
        return apiserver.peers()

    @rest.get("/v1/services", list[PublishedService], tag="status")
    async def services(ns: str = "") -> list[PublishedService]:
        """The service records that peers can read, as published."""
        return _published(apiserver, Kind.SERVICES, f"{ns}/" if ns else "")

    @rest.get("/v1/certs", list[CertificateRow], tag="status")
    async def certs() -> list[CertificateRow]:
        """The certificate shown to clients, and every authority that is trusted."""
        return [
            CertificateRow(
                role=role,
                subject_cn=info.subject_cn,
                issuer=info.issuer,
                serial=f"{info.serial:x}",
                not_before=info.not_before_s,
                not_after=info.not_after_s,
                fingerprint=info.fingerprint,
                sans=list(info.sans),
            )
            for role, info in apiserver.facade_server.certificates()
        ]

    @rest.get("/v1/reach", Reach, tag="debug", errors={400: "the port is not in 1..65535"})
    async def reach(host: str, port: int, name: str, ca: str) -> Reach:
        """Whether this program reaches a TLS server that proves `name` by the authority `ca` (PEM). Nothing is sent to it."""
        if not 1 <= port <= 65535:
            raise NotAnswered(400, f"port {port} is not in 1..65535")
        found = await diagnose_server(host, port, name, ca.encode())
        return Reach(problem=found.problem, detail=found.detail, advice=found.advice)

    @rest.get_stream("/v1/tables", str, "text/plain", tag="debug")
    async def tables() -> Response:
        """What this program knows of its own cluster, as text."""
        return PlainTextResponse(apiserver.tables.dump() + "\n")

    add_routes(rest, apiserver)
    add_event_routes(rest, events)
    return app


async def serve_status(apiserver: Apiserver) -> None:
    """The REST interface is served until cancelled: everything on the socket; over the network what a token opens.

    Raises: OSError when an address or the socket cannot be bound.
    """
    settings, health = apiserver.settings, Health()

    def started(port: int) -> None:
        apiserver.status_port = port

    events = make_event_log(apiserver, health, SystemClock())
    app = make_status_app(apiserver, health, events)
    guarded = Guard(app, apiserver.admit, headers=(TOKEN_HEADER,))
    answers = probes(health, lambda: report_health(apiserver, health))
    await together(
        {
            "rest": serve(guarded, settings.status_address, settings.status_port, on_started=started),
            "rest on the socket": serve(app, sockets=[bind_unix(settings.status_socket)]),
            "events": events.run(program_version()),
            "probes": serve_probes(settings.status_address, settings.probe_port, answers),
        }
    )


async def _agent_token(apiserver: Apiserver) -> str:
    """The token that agents admit us by, read anew each time as it is renewed in place; empty if there is none."""
    try:
        return (await asyncio.to_thread(apiserver.settings.agent_token_file.read_text)).strip()
    except OSError:
        return ""


def _published(apiserver: Apiserver, kind: Kind, prefix: str) -> list[PublishedService]:
    store = apiserver.stores().get(kind)
    wanted = store.wanted if store is not None else {}
    found = sorted(key.decode() for key in wanted if key.startswith(prefix.encode()))
    return [PublishedService(service=key, record=msgspec.Raw(wanted[key.encode()])) for key in found]
