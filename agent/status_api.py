# SPDX-License-Identifier: Apache-2.0
"""The agent's REST interface: read-only, each path typed by a struct of meshapi, OpenAPI at /openapi.json."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

import msgspec
from fastapi import FastAPI, Query, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from agent.endpoints.rows import endpoint_rows
from agent.exposition import collect_metrics
from agent.identity.rows import identity_rows
from agent.ipcache.rows import address_row, address_rows
from agent.loadbalancer.rows import ServiceRows
from agent.mesh.rows import cluster_row, rejected_rows
from agent.nodes.rows import node_rows
from agent.observe.flow import Flow
from agent.observe.ring import Filter
from agent.observe.text import line
from agent.policy.rows import policy_list, policy_map_rows, selector_rows
from agent.reports import MAP_NAMES, agent_status, map_status_rows, peer_rows
from agent.settings import program_version
from meshapi.agent import (
    AddressRow,
    AgentStatus,
    EndpointRow,
    IdentityRow,
    MapEntry,
    MapStatus,
    NodeRow,
    PolicyList,
    PolicyMapRow,
    SelectorRow,
)
from meshapi.peer import RejectedRecords, RemoteCluster
from meshapi.service import ServiceExplanation, ServiceStatus
from meshkit.http import make_app
from meshkit.rest import NotAnswered, Rest
from meshkit.table import snapshot
from meshmodel.names import ClusterName, ServiceName

if TYPE_CHECKING:
    from agent.served import Served

LAST_DEFAULT: Final = 20
MAX_MAP_ENTRIES: Final = 100_000
MAX_FOLLOWERS: Final = 16
SHOWN_MAPS: Final = (*MAP_NAMES, "metrics", "endpoints_by_ifindex")


def make_api(agent: Served) -> FastAPI:
    """The application that serves one agent's state."""
    app = make_app("clustermesh-agent", program_version(), agent.health, agent.registry)
    agent.registry.add_source(lambda: collect_metrics(agent))
    rest = Rest(app)
    _add_clusters(rest, agent)
    _add_services(rest, agent)
    _add_tables(rest, agent)
    _add_maps(rest, agent)
    _add_policy(rest, agent)
    _add_flows(rest, agent)
    return app


def _add_clusters(rest: Rest, agent: Served) -> None:
    @rest.get("/v1/status", AgentStatus, tag="status")
    async def status() -> AgentStatus:
        """The whole agent."""
        return agent_status(agent, program_version())

    @rest.get("/v1/clusters", list[RemoteCluster], tag="clusters")
    async def clusters() -> list[RemoteCluster]:
        """Every configured peer."""
        return peer_rows(agent)

    @rest.get("/v1/clusters/{name}", RemoteCluster, tag="clusters", errors={404: "no such cluster is configured"})
    async def cluster(name: str) -> RemoteCluster:
        """One peer, or the own cluster's store under the own name."""
        member = agent.mesh.members.get(ClusterName(name))
        if member is None:
            raise NotAnswered(404, f"no cluster {name} is configured")
        return cluster_row(member.state, agent.mesh.rejections, agent.clock)

    @rest.get("/v1/clusters/{name}/rejected", dict[str, RejectedRecords], tag="clusters")
    async def rejected(name: str) -> dict[str, RejectedRecords]:
        """Rejected records by reason, with the last sample of each."""
        return rejected_rows(agent.mesh.rejections, ClusterName(name))


def _add_services(rest: Rest, agent: Served) -> None:
    rows = ServiceRows(
        agent.db, agent.load_balancer, agent.lb_target, agent.clock, agent.reconcilers["frontends"].failure_of
    )

    @rest.get("/v1/services", list[ServiceStatus], tag="services")
    async def services(cluster: str = "", ns: str = "") -> list[ServiceStatus]:
        """Every service address with its candidates; `cluster` keeps those with a backend there."""
        return rows.services(cluster, ns)

    @rest.get(
        "/v1/services/{namespace}/{name}", ServiceExplanation, tag="services", errors={404: "no such service here"}
    )
    async def service(namespace: str, name: str) -> ServiceExplanation:
        """One service: candidates, the rule that decided, and what is in the map since when."""
        found = rows.explain(ServiceName(namespace, name))
        if found is None:
            raise NotAnswered(404, f"no service {namespace}/{name} in this cluster")
        return found


def _add_tables(rest: Rest, agent: Served) -> None:
    db = agent.db

    @rest.get("/v1/nodes", list[NodeRow], tag="tables")
    async def nodes(cluster: str = "") -> list[NodeRow]:
        """Nodes of every cluster."""
        return node_rows(db, cluster)

    @rest.get("/v1/identities", list[IdentityRow], tag="tables")
    async def identities(label: str = "") -> list[IdentityRow]:
        """Identities of every cluster; `label` keeps those with a label that contains it."""
        return identity_rows(db, label)

    @rest.get(
        "/v1/ip/{address}",
        AddressRow,
        tag="tables",
        errors={400: "not an address", 404: "in no known prefix: it is world"},
    )
    async def ip(address: str) -> AddressRow:
        """Whose an address is: the longest prefix that holds it."""
        try:
            row = address_row(db, address)
        except ValueError as exc:
            raise NotAnswered(400, f"{address!r} is not an address") from exc
        if row is None:
            raise NotAnswered(404, f"{address} is in no known prefix: it is world")
        return row

    @rest.get("/v1/ips", list[AddressRow], tag="tables")
    async def ips(cluster: str = "") -> list[AddressRow]:
        """Every prefix of the ipcache."""
        return address_rows(db, cluster)

    @rest.get("/v1/endpoints", list[EndpointRow], tag="tables")
    async def endpoints() -> list[EndpointRow]:
        """Pods of this node that have an interface."""
        return endpoint_rows(db, agent.endpoint_target.revision, agent.endpoint_target.failures)

    @rest.get_stream("/v1/tables", str, "text/plain", tag="tables", errors={404: "no such table"})
    async def tables(name: str = "") -> Response:
        """Every table as deterministic text, or the one of this name."""
        found = sorted((t for t in db.tables if name in ("", t.name)), key=lambda t: t.name)
        if not found:
            raise NotAnswered(404, f"no table {name}; there are: {', '.join(sorted(t.name for t in db.tables))}")
        return PlainTextResponse(snapshot(found))


def _add_maps(rest: Rest, agent: Served) -> None:
    @rest.get("/v1/maps", list[MapStatus], tag="maps")
    async def maps() -> list[MapStatus]:
        """Entries and limits of every map."""
        return map_status_rows(agent)

    @rest.get("/v1/maps/{name}", list[MapEntry], tag="maps", errors={404: "no such map"})
    async def entries(name: str, limit: int = Query(MAX_MAP_ENTRIES, ge=1, le=MAX_MAP_ENTRIES)) -> list[MapEntry]:
        """What the kernel holds now, as key and value."""
        if name not in SHOWN_MAPS:
            raise NotAnswered(404, f"no map {name}; there are: {', '.join(SHOWN_MAPS)}")
        return _map_entries(getattr(agent.maps, name), limit)


def _map_entries(kernel_map: Any, limit: int) -> list[MapEntry]:
    found = []
    for key, value in kernel_map.items():
        found.append(MapEntry(key._asdict(), value._asdict()))
        if len(found) >= limit:
            break
    return sorted(found, key=lambda entry: str(entry.key))


def _add_policy(rest: Rest, agent: Served) -> None:
    @rest.get("/v1/policy", PolicyList, tag="policy")
    async def policy() -> PolicyList:
        """Policy objects, in force or refused."""
        return policy_list(agent.db, agent.compiler)

    @rest.get("/v1/policy/selectors", list[SelectorRow], tag="policy")
    async def selectors() -> list[SelectorRow]:
        """Every selector in use and the identities it selects."""
        return selector_rows(agent.compiler)

    @rest.get("/v1/policy/endpoints/{endpoint_id}", list[PolicyMapRow], tag="policy")
    async def endpoint(endpoint_id: int) -> list[PolicyMapRow]:
        """The realised policy map of one endpoint, rules by name."""
        return policy_map_rows(agent.maps.policy.items(), endpoint_id, agent.compiler)


def _add_flows(rest: Rest, agent: Served) -> None:
    followers = asyncio.Semaphore(MAX_FOLLOWERS)

    @rest.get_stream("/v1/flows", Flow, "application/x-ndjson", tag="flows", errors={429: "too many followers"})
    async def flows(
        *,
        type_: str = Query("", alias="type"),
        last: int = Query(LAST_DEFAULT, ge=0),
        follow: bool = False,
        format_: str = Query("json", alias="format", pattern="^(json|text)$"),
        pod: str = "",
        verdict: str = "",
    ) -> Response:
        """The last flows of this node, oldest first, one JSON object (or text line) a line; `follow` keeps the answer open."""
        keep = _filter(type_, pod, verdict)
        render = _as_text if format_ == "text" else _as_json
        shown = agent.flows.last(last, keep)
        media = "text/plain" if format_ == "text" else "application/x-ndjson"
        if not follow:
            return Response(b"".join(render(flow) for flow in shown), media_type=media)

        if followers.locked():
            raise NotAnswered(429, f"{MAX_FOLLOWERS} followers are connected already")
        await followers.acquire()

        async def stream() -> AsyncIterator[bytes]:
            for flow in shown:
                yield render(flow)
            async for flow in agent.flows.follow(keep):
                yield render(flow)

        return _Follow(stream(), followers, media)


class _Follow(StreamingResponse):
    """A response that gives its place back when it ends, also when it never began."""

    def __init__(self, lines: AsyncIterator[bytes], places: asyncio.Semaphore, media_type: str) -> None:
        super().__init__(lines, media_type=media_type)
        self._places = places

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._places.release()


def _filter(kind: str, pod: str, verdict: str) -> Filter:
    """Type and verdict exactly; a pod by the beginning of `namespace/name`."""

    def keep(flow: Flow) -> bool:
        if kind and flow.type.value != kind:
            return False
        if verdict and flow.verdict.value != verdict.upper():
            return False
        names = (f"{side.namespace}/{side.pod}" for side in (flow.source, flow.destination))
        return not pod or any(name.startswith(pod) for name in names)

    return keep


def _as_json(flow: Flow) -> bytes:
    return msgspec.json.encode(flow) + b"\n"


def _as_text(flow: Flow) -> bytes:
    return (line(flow, with_policy=True, with_cluster=True) + "\n").encode()
