# SPDX-License-Identifier: Apache-2.0
"""The agent's REST interface: read-only, JSON by msgspec, OpenAPI at /openapi.json."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import msgspec
from fastapi import FastAPI, HTTPException, Query, Response
from fastapi.responses import PlainTextResponse, StreamingResponse

from agent.exposition import collect_metrics
from agent.observe.flow import Flow
from agent.observe.ring import Filter
from agent.observe.text import line
from agent.reports import MAP_NAMES, Reporter
from agent.settings import program_version
from agent.tables import Identity, Node, Prefix
from meshkit.http import json_response, make_app
from meshmodel.identity import identity_name
from meshmodel.names import ClusterName, ServiceName

if TYPE_CHECKING:
    from agent.served import Served

LAST_DEFAULT = 20
MAX_MAP_ENTRIES = 100_000


def make_api(agent: Served) -> FastAPI:
    """The application that serves one agent's state."""
    app = make_app("clustermesh-agent", program_version(), agent.health, agent.registry)
    reporter = Reporter(agent, program_version())
    agent.registry.add_source(lambda: collect_metrics(agent))
    _add_status(app, agent, reporter)
    _add_services(app, reporter)
    _add_rows(app, agent)
    _add_maps(app, agent)
    _add_policy(app, agent)
    _add_flows(app, agent)
    return app


def _add_status(app: FastAPI, agent: Served, reporter: Reporter) -> None:
    @app.get("/v1/status", tags=["status"])
    async def status() -> Response:
        """The whole agent (meshmodel.status.AgentStatus)."""
        return json_response(reporter.status())

    @app.get("/v1/clusters", tags=["clusters"])
    async def clusters() -> Response:
        """Every configured peer."""
        return json_response([reporter.cluster(state) for state in agent.mesh.states()])

    @app.get("/v1/clusters/{name}", tags=["clusters"])
    async def cluster(name: str) -> Response:
        """One peer, or the own cluster's store under the own name."""
        member = agent.mesh.members.get(ClusterName(name))
        if member is None:
            raise HTTPException(404, f"no cluster {name} is configured")
        return json_response(reporter.cluster(member.state))

    @app.get("/v1/clusters/{name}/rejected", tags=["clusters"])
    async def rejected(name: str) -> Response:
        """Rejected records by reason, with the last sample of each."""
        counts = agent.mesh.rejections.counts(ClusterName(name))
        samples = agent.mesh.rejections.samples(ClusterName(name))
        return json_response({r: {"total": n, "sample": samples[r]} for r, n in counts.items()})


def _add_services(app: FastAPI, reporter: Reporter) -> None:
    @app.get("/v1/services", tags=["services"])
    async def services(cluster: str = "", ns: str = "") -> Response:
        """Every service address with its candidates; `cluster` keeps those with a backend there."""
        return json_response(reporter.services(cluster, ns))

    @app.get("/v1/services/{namespace}/{name}", tags=["services"])
    async def service(namespace: str, name: str) -> Response:
        """One service: candidates, the rule that decided, and what is in the map since when."""
        found = reporter.explain(ServiceName(namespace, name))
        if found is None:
            raise HTTPException(404, f"no service {namespace}/{name} in this cluster")
        return json_response(found)


def _add_rows(app: FastAPI, agent: Served) -> None:
    db = agent.db

    @app.get("/v1/nodes", tags=["tables"])
    async def nodes(cluster: str = "") -> Response:
        """Nodes of every cluster."""
        rows = sorted(db.nodes.rows(), key=lambda n: (n.cluster, n.name))
        return json_response([_node(agent, row) for row in rows if not cluster or row.cluster == cluster])

    @app.get("/v1/identities", tags=["tables"])
    async def identities(label: str = "") -> Response:
        """Identities of every cluster; `label` keeps those with a label that contains it."""
        rows = sorted(db.identities.rows(), key=lambda i: i.id)
        return json_response([d for row in rows if label in " ".join((d := _identity(row))["labels"])])

    @app.get("/v1/ip/{address}", tags=["tables"])
    async def ip(address: str) -> Response:
        """Whose an address is: the longest prefix that holds it."""
        row = _longest(agent, address)
        if row is None:
            raise HTTPException(404, f"{address} is in no known prefix: it is world")
        return json_response(_prefix(agent, row))

    @app.get("/v1/ips", tags=["tables"])
    async def ips(cluster: str = "") -> Response:
        """Every prefix of the ipcache."""
        rows = sorted(db.prefixes.rows(), key=lambda p: p.prefix)
        return json_response([_prefix(agent, row) for row in rows if not cluster or row.cluster == cluster])

    @app.get("/v1/endpoints", tags=["tables"])
    async def endpoints() -> Response:
        """Pods of this node that have an interface."""
        return json_response([_endpoint(agent, address) for address in sorted(db.endpoints.keys())])

    @app.get("/v1/tables", tags=["tables"], response_class=PlainTextResponse)
    async def tables() -> PlainTextResponse:
        """Every table as deterministic text."""
        return PlainTextResponse(db.dump())


def _add_maps(app: FastAPI, agent: Served) -> None:
    @app.get("/v1/maps", tags=["maps"])
    async def maps() -> Response:
        """Entries and limits of every map."""
        return json_response(Reporter(agent, "").maps())

    @app.get("/v1/maps/{name}", tags=["maps"])
    async def entries(name: str, limit: int = MAX_MAP_ENTRIES) -> Response:
        """What the kernel holds now, as key and value."""
        if name not in (*MAP_NAMES, "metrics", "endpoints_by_ifindex"):
            raise HTTPException(404, f"no map {name}; there are: {', '.join(MAP_NAMES)}")
        found = []
        for key, value in getattr(agent.maps, name).items():
            found.append({"key": key._asdict(), "value": value._asdict()})
            if len(found) >= limit:
                break
        return json_response(sorted(found, key=str))


def _add_policy(app: FastAPI, agent: Served) -> None:
    @app.get("/v1/policy", tags=["policy"])
    async def policy() -> Response:
        """Policy objects, in force or refused, and the revision each pod of this node enforces."""
        rows = sorted(agent.db.policies.rows(), key=lambda p: (p.kind, p.namespace, p.name))
        policies = [
            {
                "kind": p.kind,
                "namespace": p.namespace,
                "name": p.name,
                "valid": p.is_valid,
                "message": p.message,
                "problems": list(p.problems),
            }
            for p in rows
        ]
        return json_response({"revision": agent.compiler.engine.revision, "policies": policies})

    @app.get("/v1/policy/selectors", tags=["policy"])
    async def selectors() -> Response:
        """Every selector in use and the identities it selects."""
        found = agent.compiler.engine.selectors()
        return json_response([{"selector": text, "identities": list(ids)} for text, ids in found.items()])

    @app.get("/v1/policy/endpoints/{endpoint_id}", tags=["policy"])
    async def endpoint(endpoint_id: int) -> Response:
        """The realised policy map of one endpoint, rules by name."""
        found = []
        for key, value in agent.maps.policy.items():
            if key.endpoint_id == endpoint_id:
                entry = {**key._asdict(), **value._asdict()}
                entry["identity_name"] = identity_name(key.identity) if key.identity else "any"
                entry["rule"] = agent.compiler.rule_name(value.rule_id)
                found.append(entry)
        return json_response(sorted(found, key=lambda e: (e["direction"], e["identity"], e["protocol"], e["port"])))


def _add_flows(app: FastAPI, agent: Served) -> None:
    @app.get("/v1/flows", tags=["flows"])
    async def flows(
        *,
        type_: str = Query("", alias="type"),
        last: int = LAST_DEFAULT,
        follow: bool = False,
        format_: str = Query("json", alias="format"),
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

        async def stream() -> AsyncIterator[bytes]:
            for flow in shown:
                yield render(flow)
            async for flow in agent.flows.follow(keep):
                yield render(flow)

        return StreamingResponse(stream(), media_type=media)


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


def _longest(agent: Served, address: str) -> Prefix | None:
    try:
        network = ipaddress.ip_network(address, strict=False)
    except ValueError as exc:
        raise HTTPException(400, f"{address!r} is not an address") from exc
    for length in range(network.prefixlen, -1, -1):
        row = agent.db.prefixes.get(str(network.supernet(new_prefix=length)))
        if row is not None:
            return row
    return None


def _source(agent: Served, cluster: str) -> str:
    return "local" if cluster == agent.db.own else "clustermesh"


def _node(agent: Served, row: Node) -> dict[str, Any]:
    is_here = row.cluster == agent.db.own and row.name == agent.db.node_name
    return {
        "name": f"{row.cluster}/{row.name}",
        "cluster": row.cluster,
        "cluster-id": row.cluster_id,
        "address": row.internal_ip,
        "addresses": [{"type": a.kind, "ip": a.ip} for a in row.addresses],
        "pod-cidrs": list(row.pod_cidrs),
        "source": "local" if is_here else "custom-resource" if row.cluster == agent.db.own else "clustermesh",
    }


def _identity(row: Identity) -> dict[str, Any]:
    return {"id": row.id, "cluster": row.cluster, "labels": [f"{x.source}:{x.key}={x.value}" for x in row.labels]}


def _prefix(agent: Served, row: Prefix) -> dict[str, Any]:
    return {
        "cidr": row.prefix,
        "identity": row.identity,
        "identity-known": row.is_known,
        "host-ip": row.host,
        "tunnel": row.tunnel,
        "cluster": row.cluster,
        "cluster-id": row.cluster_id,
        "origin": row.origin.value,
        "source": _source(agent, row.cluster),
        "namespace": row.namespace,
        "name": row.name,
    }


def _endpoint(agent: Served, address: str) -> dict[str, Any]:
    row = agent.db.endpoints.get(address)
    assert row is not None
    verdicts = agent.db.verdicts.get(address)
    return {
        "id": row.endpoint_id,
        "address": row.address,
        "namespace": row.namespace,
        "pod": row.pod,
        "identity": row.identity,
        "ifindex": row.ifindex,
        "ingress-enforced": verdicts is not None and verdicts.policy.ingress_enforced,
        "egress-enforced": verdicts is not None and verdicts.policy.egress_enforced,
        "policy-revision": agent.endpoint_target.revision(address),
    }
