# SPDX-License-Identifier: Apache-2.0
"""What `clustermesh policy eval` says of documents is what becomes of packets under the entries an agent writes for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from agent.datapath.flow_layout import EventType
from agent.datapath.reasons import Reason
from agent.policy.ranges import WriteProgress
from agent.tables import ClaimOrigin, Identity, NamedPort, Prefix
from meshmodel.labels import CLUSTER_LABEL, Labels, pod_labels
from meshmodel.names import ClusterId
from meshpolicy import PolicyRef
from meshpolicy.evaluate import ALLOWED, DENIED, evaluate_case
from tests.packet.packet_bytes import ICMP, TCP, UDP, Packet
from tests.packet.packet_node import (
    NEIGHBOUR,
    NEIGHBOUR_ID,
    POD,
    REMOTE_ID,
    REMOTE_NODE,
    REMOTE_POD,
    WORLD,
    PacketNode,
)
from tests.packet.test_packet_nodes import EDGE, NORTH, NOT_EDGE, SOUTH, Policies

pytestmark = pytest.mark.root
OUTSIDE = {"outside": WORLD, "network": "10.200.1.1", "excepted": "10.200.2.2"}
SUBJECT_LABELS = pod_labels({"app": "a"}, "shop", {}, "default", NORTH)
NEIGHBOUR_LABELS = pod_labels({"app": "b"}, "shop", {}, "default", NORTH)
REMOTE_LABELS = pod_labels({"app": "b"}, "shop", {}, "default", SOUTH)
ADDRESSES = {**OUTSIDE, "neighbour": NEIGHBOUR, "remote": REMOTE_POD, "node": REMOTE_NODE}
PORTS = [("TCP", 80), ("TCP", 78), ("TCP", 443), ("TCP", 444), ("UDP", 53), ("ICMP", 8), ("ICMP", 0), ("ICMP", 13)]
NUMBERS = {"TCP": TCP, "UDP": UDP, "ICMP": ICMP}
B = {"matchLabels": {"app": "b"}}
B_ANYWHERE = {**B, "matchExpressions": [{"key": "io.cilium.k8s.policy.cluster", "operator": "Exists"}]}
EXCEPT = [{"cidr": "10.200.0.0/16", "except": ["10.200.2.0/24"]}]
ALL = [{"fromEntities": ["all"]}]
DENIALS = (Reason.POLICY_DENIED, Reason.POLICY_DENY_RULE)
NAMED = {"subject": {"web": [80, "TCP"]}, "neighbour": {"web": [443, "TCP"]}, "remote": {"web": [78, "TCP"]}}
NODE_LABELS = ["reserved:remote-node", "node:role=edge", "node:x=remote", f"node:{CLUSTER_LABEL}={SOUTH}"]
PODS = [{"namespaces": {}}]


def ports(port: str, protocol: str = "TCP", **more: int) -> list[Any]:
    return [{"ports": [{"port": port, "protocol": protocol, **more}]}]


def cilium(**spec: Any) -> dict[str, Any]:
    return _document("cilium.io/v2", "CiliumNetworkPolicy", "shop", {"endpointSelector": {}, **spec})


def group(name: str, prefixes: list[str]) -> dict[str, Any]:
    metadata = {"name": name, "labels": {"of": name}}
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumCIDRGroup",
        "metadata": metadata,
        "spec": {"externalCIDRs": prefixes},
    }


def kubernetes(**spec: Any) -> dict[str, Any]:
    return _document("networking.k8s.io/v1", "NetworkPolicy", "shop", {"podSelector": {}, **spec})


def tiered(tier: str, priority: int, **spec: Any) -> dict[str, Any]:
    body = {"tier": tier, "priority": priority, "subject": {"namespaces": {}}, **spec}
    return _document("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy", "", body)


def _document(version: str, kind: str, namespace: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    name = f"{spec.get('tier', 'p')}{spec.get('priority', '')}".lower()
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": dict(spec)}


def rule(action: str, port: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = {"name": "r", "action": action, "from": PODS}
    return {**found, "protocols": [{"tcp": {"destinationPort": {"number": port}}}]} if port else found


CASES = {
    "a port": [cilium(ingress=[{"toPorts": ports("80")}])],
    "ranges": [
        cilium(ingress=[{"toPorts": ports("79", endPort=443)}], egress=[{"toPorts": ports("1", "UDP", endPort=53)}])
    ],
    "every protocol of a port": [cilium(ingress=[{"toPorts": ports("80", "ANY")}])],
    "types of ICMP": [
        cilium(
            ingress=[{"icmps": [{"fields": [{"type": 8}]}]}], egress=[{"icmps": [{"fields": [{"type": "EchoReply"}]}]}]
        )
    ],
    "CIDR but": [
        cilium(
            ingress=[{"fromCIDRSet": EXCEPT}],
            egress=[{"toCIDRSet": [{"cidr": "0.0.0.0/0", "except": ["10.200.0.0/16"]}]}],
        )
    ],
    "one of the excepted": [
        cilium(ingress=[{"fromCIDRSet": EXCEPT}, {"fromCIDR": ["10.200.2.2/32"], "toPorts": ports("80")}])
    ],
    "world": [cilium(ingress=[{"fromEntities": ["world"]}], egress=[{"toEntities": ["world"]}])],
    "cluster": [cilium(ingress=[{"fromEntities": ["cluster"]}], egress=[{"toEntities": ["remote-node"]}])],
    "deny over allow": [cilium(ingress=ALL, ingressDeny=[{"fromEndpoints": [B_ANYWHERE], "toPorts": ports("80")}])],
    "deny addresses": [cilium(ingress=ALL, ingressDeny=[{"fromCIDR": ["10.200.0.0/16"]}], egress=[{}])],
    "own cluster": [cilium(ingress=[{"fromEndpoints": [B]}], egress=[{"toEndpoints": [B]}])],
    "every cluster": [
        cilium(
            ingress=[{"fromEndpoints": [B_ANYWHERE]}], egress=[{"toEndpoints": [B_ANYWHERE], "toPorts": ports("443")}]
        )
    ],
    "no default deny": [cilium(enableDefaultDeny={"ingress": False}, ingressDeny=[{"fromEndpoints": [B_ANYWHERE]}])],
    "Kubernetes": [
        kubernetes(policyTypes=["Ingress", "Egress"], ingress=[{"from": [{"podSelector": B}], "ports": [{"port": 80}]}])
    ],
    "Admin accepts": [kubernetes(policyTypes=["Ingress"]), tiered("Admin", 5, ingress=[rule("Accept", 80)])],
    "Admin passes": [tiered("Admin", 5, ingress=[rule("Pass", 80)]), tiered("Admin", 6, ingress=[rule("Deny")])],
    "Baseline denies": [tiered("Baseline", 0, ingress=[rule("Deny", 443)])],
    "Baseline of the isolated": [kubernetes(policyTypes=["Ingress"]), tiered("Baseline", 0, ingress=[rule("Accept")])],
    "empty rules": [cilium(ingress=[{}], egress=[{}])],
    "a name of the pod's own": [cilium(ingress=[{"toPorts": ports("web")}])],
    "a name of each peer": [cilium(egress=[{"toEndpoints": [B_ANYWHERE], "toPorts": ports("web")}])],
    "a group": [
        group("partners", ["10.200.1.0/24"]),
        cilium(
            ingress=[{"fromCIDRSet": [{"cidrGroupRef": "partners"}]}],
            egress=[{"toCIDRSet": [{"cidrGroupSelector": {"matchLabels": {"of": "partners"}}}]}],
        ),
    ],
    "a group denied": [
        group("partners", ["10.200.1.0/24", "93.184.216.34/32"]),
        cilium(ingress=ALL, ingressDeny=[{"fromCIDRSet": [{"cidrGroupRef": "partners"}], "toPorts": ports("80")}]),
    ],
    "a group that is not there": [cilium(ingress=[{"fromCIDRSet": [{"cidrGroupRef": "partners"}]}])],
    "nodes": [cilium(ingress=[{"fromNodes": [EDGE]}], egress=[{"toNodes": [EDGE], "toPorts": ports("443")}])],
    "nodes denied": [
        cilium(ingress=ALL, ingressDeny=[{"fromNodes": [EDGE]}], egress=[{}]),
    ],
    "other nodes": [cilium(ingress=[{"fromNodes": [NOT_EDGE]}])],
    "empty ports": [cilium(ingress=[{"fromEntities": ["all"], "toPorts": [{"ports": []}]}])],
}


class DocumentWorld(Policies):
    """The pod and its peers with the port names that they define, under one set of documents after the other."""

    def __init__(self, node: PacketNode, progress: WriteProgress | None = None) -> None:
        super().__init__(node, progress)
        self._refs: list[PolicyRef] = []
        pod = self.db.endpoints.get(POD)
        assert pod is not None
        with self.db.write():
            self.db.identities.put(Identity(NEIGHBOUR_ID, NORTH, NEIGHBOUR_LABELS))
            self.db.identities.put(Identity(REMOTE_ID, SOUTH, REMOTE_LABELS))
            self.db.endpoints.put(replace(pod, named_ports=_named("subject")))
            for name, number, tunnel, cluster, cluster_id in (
                ("neighbour", NEIGHBOUR_ID, "", NORTH, 1),
                ("remote", REMOTE_ID, REMOTE_NODE, SOUTH, 2),
            ):
                address = f"{ADDRESSES[name]}/32"
                origin, ports_of = ClaimOrigin.POD, _named(name)
                row = Prefix(address, number, tunnel, cluster, ClusterId(cluster_id), origin, named_ports=ports_of)
                self.db.prefixes.put(row)

    def set_documents(self, name: str) -> None:
        """The case's documents and no others, of which each says that it is valid and enforced as written."""
        before, self._refs = self._refs, []
        for document in CASES[name]:
            metadata = document["metadata"]
            self._refs.append(PolicyRef(document["kind"], metadata.get("namespace", ""), metadata["name"]))
            row = self.compiler.set_document(document, self._refs[-1])
            assert (row.is_valid, row.unenforced) == (True, ())
        for ref in before:
            if ref not in self._refs:
                self.compiler.remove_document(ref)

    def renumber_neighbour(self, identity: int, labels: Labels) -> None:
        """The neighbour has this identity, and no other pod its old one."""
        row = self.db.prefixes.get(f"{NEIGHBOUR}/32")
        assert row is not None
        with self.db.write():
            self.db.identities.put(Identity(identity, NORTH, labels))
            self.db.prefixes.put(replace(row, identity=identity))

    def renumber_subject(self, identity: int, labels: Labels) -> None:
        """The pod itself has this identity."""
        pod = self.db.endpoints.get(POD)
        assert pod is not None
        with self.db.write():
            self.db.identities.put(Identity(identity, NORTH, labels))
            self.db.endpoints.put(replace(pod, identity=identity))

    def settle(self) -> None:
        for _ in range(3):  # identities of addresses follow the policies that name them
            self.write()


def _named(name: str) -> tuple[NamedPort, ...]:
    return tuple(NamedPort(port, number, protocol) for port, (number, protocol) in NAMED[name].items())


def flows() -> list[list[Any]]:
    """Each peer to the pod and back, with each of the packets."""
    ends = [end for peer in ADDRESSES for end in ((peer, "subject"), ("subject", peer))]
    return [[*end, *port] for end in ends for port in PORTS]


@pytest.mark.parametrize("name", CASES)
def test_packets_go_as_policy_eval_says(node: PacketNode, name: str) -> None:
    world = DocumentWorld(node)
    world.set_documents(name)
    world.settle()
    found = {tuple(flow): outcome(node, number, *flow) for number, flow in enumerate(flows())}
    expected = said(name)
    assert found == expected
    assert DENIED in expected.values()


def said(name: str, **labels: Labels) -> dict[tuple[Any, ...], str]:
    """What `policy eval` says of each flow under the case's documents; `labels` are other ones of the ends named."""
    known: dict[str, Labels] = {
        "subject": SUBJECT_LABELS,
        "neighbour": NEIGHBOUR_LABELS,
        "remote": REMOTE_LABELS,
        **labels,
    }
    ids = {**{key: [str(label) for label in labels] for key, labels in known.items()}, "node": NODE_LABELS}
    asked = flows()
    case = {
        "cluster": NORTH,
        "scope": NORTH,
        "ids": ids,
        "ips": OUTSIDE,
        "namedPorts": NAMED,
        "policies": CASES[name],
        "flows": asked,
    }
    answer: Any = evaluate_case(case)
    assert not answer["errors"]
    sides = zip(asked, answer["verdicts"], strict=True)
    return {tuple(flow): ingress if flow[1] == "subject" else egress for flow, (egress, ingress) in sides}


def outcome(
    node: PacketNode,
    number: int,
    source: str,
    destination: str,
    protocol: str,
    port: int,
    reasons: Iterable[Reason] = DENIALS,
) -> str:
    """Whether the packet gets through; `reasons` are those for which it may be dropped."""
    address = ADDRESSES[destination if source == "subject" else source]
    own = (port << 8, 1000 + number) if protocol == "ICMP" else (20000 + number, port)
    packet = Packet(address, POD, NUMBERS[protocol], *own)
    if source == "subject":
        out = node.send(Packet(POD, address, NUMBERS[protocol], *own))
    else:
        out = node.overlay(packet, REMOTE_ID) if source == "remote" else node.receive(packet)
    drops = [Reason(event.reason) for event in out.events if event.type == EventType.DROP]
    assert set(drops) <= set(reasons)
    return DENIED if drops else ALLOWED
