# SPDX-License-Identifier: Apache-2.0
"""Two small clusters, north and south, as their Kubernetes and agents describe them; and an API server that says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec
import orjson

from clustermesh_cli.connection_decision import End
from clustermesh_cli.live_policy import AgentView, LiveCluster
from kube.client import KubeClient
from kube.transport import Query, Transport
from meshapi.agent import NODE_ENDPOINT, AddressRow, AgentStatus, EndpointRow, NameRow, PolicyMapRow, ServicePeersRow
from meshapi.connection import RecentConnections
from meshapi.peer import RemoteCluster
from meshapi.row import encode
from meshmodel.identity import NumericIdentity
from meshmodel.labels import CLUSTER_LABEL, NAMESPACE_LABEL, labels_text, parse_label, sort_labels
from meshpolicy.prefix import parse_prefix

WEB_NORTH, WEB_SOUTH, DB_NORTH, DB_SOUTH = 70_000, 140_000, 70_001, 140_001
ADDRESSES = {WEB_NORTH: "10.1.1.4", WEB_SOUTH: "10.2.1.4", DB_NORTH: "10.1.2.4", DB_SOUTH: "10.2.2.4"}
NAMES = {
    WEB_NORTH: ("north", "web"),
    WEB_SOUTH: ("south", "web"),
    DB_NORTH: ("north", "db"),
    DB_SOUTH: ("south", "db"),
}
TOKEN = "/api/v1/namespaces/kube-system/serviceaccounts/clustermesh-viewer/token"
CONFIG_MAP = "/api/v1/namespaces/kube-system/configmaps/clustermesh-config"
NODES = {"north": "172.18.0.2", "south": "172.18.0.5"}


def policy(name: str, app: str, **spec: object) -> dict[str, object]:
    """A CiliumNetworkPolicy on the pods labelled app=`app` in namespace shop."""
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"endpointSelector": {"matchLabels": {"app": app}}, **spec},
    }


def app(name: str, **labels: str) -> dict[str, object]:
    return {"matchLabels": {"app": name, **labels}}


def deny_all(name: str) -> dict[str, object]:
    return policy(f"deny-{name}", name, ingress=[{}], egress=[{}])


def label_texts(identity: int) -> list[str]:
    cluster, name = NAMES[identity]
    texts = (f"k8s:app={name}", f"k8s:{CLUSTER_LABEL}={cluster}", f"k8s:{NAMESPACE_LABEL}=shop")
    return labels_text(sort_labels(parse_label(text) for text in texts))


def rows(*, unknown: tuple[int, ...] = ()) -> list[AddressRow]:
    pods = [
        AddressRow(f"{address}/32", i, NAMES[i][0], "pod", i not in unknown, "shop", f"{NAMES[i][1]}-{i}")
        for i, address in ADDRESSES.items()
    ]
    nodes = [AddressRow(f"{ip}/32", 6, name, "node", True, "", f"{name}-node") for name, ip in NODES.items()]
    ranges = [AddressRow("10.1.1.0/24", 0, "north", "pod-cidr"), AddressRow("10.2.1.0/24", 0, "south", "pod-cidr")]
    return [*pods, *nodes, *ranges]


def view(cluster: str, *, unknown: tuple[int, ...] = (), endpoints: tuple[EndpointRow, ...] = ()) -> AgentView:
    """The agent of the cluster's only node; identities in `unknown` have not arrived there."""
    other = "south" if cluster == "north" else "north"
    return AgentView(
        cluster=cluster,
        node=f"{cluster}-node",
        addresses={parse_prefix(row.cidr): row for row in rows(unknown=unknown)},
        identities={
            NumericIdentity(i): sort_labels(parse_label(text) for text in label_texts(i))
            for i in NAMES
            if i not in unknown
        },
        peers={other: RemoteCluster(name=other, age_s=1.5)},
        endpoints=endpoints,
    )


def endpoint(identity: int, *, enforced: bool = True) -> EndpointRow:
    return EndpointRow(identity % 100 + 1, ADDRESSES[identity], identity, enforced, enforced, 7)


def end(
    identity: int,
    *documents: Mapping[str, object],
    unknown: tuple[int, ...] = (),
    realised: tuple[PolicyMapRow, ...] = (),
    enforced: bool = True,
    switch: bool = False,
) -> End:
    """The pod with this identity, in its cluster with these policies."""
    cluster, name = NAMES[identity]
    return End(
        name=f"shop/{name}-{identity}",
        cluster=cluster,
        address=ADDRESSES[identity],
        node=f"{cluster}-node",
        live=LiveCluster(f"kind-{cluster}", cluster, switch, documents),
        view=view(cluster, unknown=unknown, endpoints=(endpoint(identity, enforced=enforced),)),
        realised=realised,
    )


class ScriptedApi:
    """An API server that knows these paths; everything else is not found. `refuse` gives paths a status."""

    def __init__(self, answers: Mapping[str, object]) -> None:
        self.server = "https://scripted"
        self.answers, self.refuse = dict(answers), dict[str, int]()

    def answer_headers(self, _path: str, *, timeout_s: float) -> dict[str, str]:
        """No header says anything."""
        assert timeout_s > 0
        return {}

    def request(
        self, method: str, path: str, *, query: Query | None = None, timeout_s: float = 0, **_: object
    ) -> tuple[int, bytes]:
        assert method == "GET" or path.endswith("/token"), "explaining changes nothing"
        if path in self.refuse:
            status = self.refuse[path]
            return status, orjson.dumps({"kind": "Status", "reason": "Refused", "message": "no", "code": status})
        if path not in self.answers:
            return 404, orjson.dumps({"kind": "Status", "reason": "NotFound", "message": "not found", "code": 404})
        answer = self.answers[path]
        return 200, answer if isinstance(answer, bytes) else orjson.dumps(_chosen(answer, query or {}))

    def client(self, context: str) -> KubeClient:
        return KubeClient(cast(Transport, self), context=context)


def _chosen(answer: object, query: Query) -> object:
    """The items that a label or field selector of one requirement leaves over."""
    if not isinstance(answer, dict) or "items" not in answer:
        return answer
    items = answer["items"]
    key, _, value = str(query.get("fieldSelector", "")).partition("=")
    if key == "spec.nodeName":
        items = [item for item in items if item["spec"]["nodeName"] == value]
    key, _, value = str(query.get("labelSelector", "")).partition("=")
    if key:
        items = [item for item in items if item["metadata"].get("labels", {}).get(key) == value]
    return {**answer, "items": items}


def listing(*items: object) -> dict[str, object]:
    return {"kind": "List", "metadata": {}, "items": list(items)}


def pod(identity: int, **spec: object) -> dict[str, Any]:
    cluster, name = NAMES[identity]
    ports = [{"name": "http", "containerPort": 80}]
    return {
        "metadata": {"namespace": "shop", "name": f"{name}-{identity}"},
        "spec": {"nodeName": f"{cluster}-node", "containers": [{"name": "c", "ports": ports}], **spec},
        "status": {"podIP": ADDRESSES[identity], "phase": "Running"},
    }


def node(name: str, address: str, **labels: str) -> dict[str, Any]:
    addresses = [{"type": "InternalIP", "address": address}]
    return {"metadata": {"name": name, "labels": labels}, "spec": {}, "status": {"addresses": addresses}}


def scripted_cluster(
    cluster: str,
    *documents: Mapping[str, object],
    flags: tuple[str, ...] = (),
    entries: tuple[PolicyMapRow, ...] = (),
    recent: RecentConnections | None = None,
    services: tuple[ServicePeersRow, ...] = (),
    names: tuple[NameRow, ...] = (),
) -> ScriptedApi:
    """Kubernetes of one cluster and, through it, its agent."""
    own = [i for i, (name, _) in NAMES.items() if name == cluster]
    agent = {
        "metadata": {"name": "agent-1", "namespace": "kube-system", "labels": {"k8s-app": "clustermesh-agent"}},
        "spec": {"nodeName": f"{cluster}-node"},
        "status": {"phase": "Running"},
    }
    seen = view(cluster)
    status = AgentStatus(node=f"{cluster}-node", cluster=cluster, peers=list(seen.peers.values()))
    proxy = "/api/v1/namespaces/kube-system/pods/agent-1:9879/proxy/v1"
    identities = [{"id": i, "cluster": NAMES[i][0], "labels": label_texts(i)} for i in NAMES]
    template = {"spec": {"containers": [{"name": "agent", "args": list(flags)}]}}
    endpoints = [endpoint(i) for i in own]
    return ScriptedApi(
        {
            TOKEN: {"status": {"token": "viewer-token"}},
            CONFIG_MAP: {"data": {"cluster-name": cluster, "policy-default-local-cluster": "false"}},
            "/apis/apps/v1/namespaces/kube-system/daemonsets/clustermesh-agent": {"spec": {"template": template}},
            "/apis/cilium.io/v2/ciliumnetworkpolicies": listing(*documents),
            "/apis/networking.k8s.io/v1/networkpolicies": listing(),
            "/apis/cilium.io/v2/ciliumidentities": listing(
                *({"metadata": {"name": str(i), "creationTimestamp": "2026-01-01T00:00:00Z"}} for i in own)
            ),
            "/api/v1/nodes": listing(node(f"{cluster}-node", NODES[cluster])),
            "/api/v1/pods": listing(*(pod(i) for i in own)),
            "/api/v1/namespaces/kube-system/pods": listing(agent),
            f"{proxy}/status": encode(status),
            f"{proxy}/identities": identities,
            f"{proxy}/ips": msgspec.json.encode(rows()),
            f"{proxy}/policy/services": encode(services),
            f"{proxy}/fqdn/cache": encode(names),
            f"{proxy}/flows/connections?most=4000": encode(
                recent or RecentConnections(node=f"{cluster}-node", cluster=cluster)
            ),
            f"{proxy}/endpoints": msgspec.json.encode(endpoints),
            f"{proxy}/policy/endpoints/{NODE_ENDPOINT}": b"[]",
            **{f"{proxy}/policy/endpoints/{row.id}": msgspec.json.encode(entries) for row in endpoints},
        }
    )
