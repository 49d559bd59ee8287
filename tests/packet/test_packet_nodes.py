# SPDX-License-Identifier: Apache-2.0
"""Rules that name nodes by label, from the documents to packets: who is let in, by which node's labels, and what leaves."""

from __future__ import annotations

from typing import Any

import pytest

from agent.datapath.flow_layout import EventType
from agent.datapath.reasons import Reason
from agent.identity.writer import IdentityWriter
from agent.ipcache.ops import IpcacheTarget
from agent.ipcache.writer import PrefixWriter
from agent.policy.compiler import PolicyCompiler
from agent.policy.nodes import NodeFollower, NodeVerbs
from agent.policy.ops import EndpointTarget
from agent.policy.ranges import WriteProgress
from agent.tables import AgentDB, Endpoint, Identity, Node, NodeAddress, pack_labels
from meshmodel.identity import is_of_nodes
from meshmodel.labels import CLUSTER_LABEL, pod_labels
from meshmodel.names import ClusterId, ClusterName
from meshpolicy import PolicyContext, PolicyRef
from tests.packet.packet_bytes import UDP, Packet
from tests.packet.packet_node import (
    ENDPOINT_ID,
    NODE,
    PASS,
    POD,
    POD_ID,
    REDIRECT,
    REMOTE_NODE,
    REMOTE_POD,
    SHOT,
    PacketNode,
)
from tests.support.policy_neighbours import neighbours

pytestmark = pytest.mark.root
NORTH, SOUTH = ClusterName("north"), ClusterName("south")
SIBLING = "192.168.50.12"
VXLAN = Packet(NODE, REMOTE_NODE, UDP, 50000, 8472)
ANY_CLUSTER = [{"key": CLUSTER_LABEL, "operator": "Exists"}]
EDGE = {"matchLabels": {"role": "edge"}, "matchExpressions": ANY_CLUSTER}
NOT_EDGE = {"matchExpressions": [{"key": "role", "operator": "NotIn", "values": ["edge"]}, *ANY_CLUSTER]}


class _Attachments:
    def attach(self, ifindex: int) -> None: ...
    def detach(self, ifindex: int) -> None: ...
    def attached(self) -> set[int]:
        return set()

    def unattached(self, ifindexes: Any) -> set[int]:
        return set()


class Policies:
    """The agent's way from documents and node records to the maps of the packet node, step by step."""

    def __init__(self, node: PacketNode, progress: WriteProgress | None = None) -> None:
        self.db = AgentDB(NORTH, ClusterId(1), "own", NODE)
        self.prefixes = PrefixWriter(self.db)
        found = neighbours(self.db, self.prefixes)
        identities = IdentityWriter(self.db)
        follower = NodeFollower(
            self.db,
            NodeVerbs(
                identities.set_identity,
                identities.delete_identity,
                found.set_node_identities,
                lambda: True,
                found.are_addresses_written,
            ),
        )
        context = PolicyContext(NORTH, ipv6=node.ipv6)
        self.compiler = PolicyCompiler(self.db, context, found.set_prefixes, follower, progress=progress)
        self._ipcache = IpcacheTarget(node.maps.ipcache)
        self._endpoints = EndpointTarget(node.maps, _Attachments())
        self.node("own", NODE, "edge", NORTH)
        self.node("sibling", SIBLING, "edge", NORTH)
        self.node("remote", REMOTE_NODE, "edge", SOUTH)
        value = next(v for _, v in node.maps.endpoints_by_address.items() if v.address == POD)
        with self.db.write():
            self.db.identities.put(Identity(POD_ID, NORTH, pod_labels({"app": "a"}, "shop", {}, "default", NORTH)))
            self.db.endpoints.put(
                Endpoint(POD, ENDPOINT_ID, value.ifindex, value.mac, value.node_mac, POD_ID, "shop", "a")
            )

    def node(self, name: str, address: str, role: str, cluster: ClusterName) -> None:
        """The node's record, as its cluster tells it."""
        number = ClusterId(1 if cluster == NORTH else 2)
        row = Node(
            cluster,
            number,
            name,
            (NodeAddress("InternalIP", address),),
            (),
            packed_labels=pack_labels({"role": role, "x": name}),
        )
        with self.db.write():
            self.db.nodes.put(row)
            self.prefixes.set_node(row)

    def rule(self, section: str, **rule: Any) -> None:
        """The only policy has this rule, and allows everything else if the rule denies."""
        spec: dict[str, Any] = {"endpointSelector": {}, section: [rule]}
        if section.endswith("Deny"):
            direction = section.removesuffix("Deny")
            spec[direction] = [{("from" if direction == "ingress" else "to") + "Entities": ["all"]}]
        document = {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumNetworkPolicy",
            "metadata": {"name": "p", "namespace": "shop"},
            "spec": spec,
        }
        row = self.compiler.set_document(document, PolicyRef("CiliumNetworkPolicy", "shop", "p"))
        assert (row.is_valid, row.problems) == (True, ())
        self.write()

    def write(self) -> None:
        """What follows is in the maps."""
        self.compiler.step()
        assert not self._endpoints.update(list(self.db.verdicts.rows()))
        assert not self._ipcache.update(list(self.db.prefixes.rows()))


@pytest.fixture
def policies(node: PacketNode) -> Policies:
    return Policies(node)


def test_an_allow_rule_lets_in_nodes_with_the_label_only(node: PacketNode, policies: Policies) -> None:
    policies.rule("ingress", fromNodes=[EDGE])
    policies.node("sibling", SIBLING, "plain", NORTH)
    policies.write()
    assert node.receive(Packet(SIBLING, POD)).drop is Reason.POLICY_DENIED
    out = node.receive(Packet(REMOTE_NODE, POD))
    assert out.verdict == PASS
    assert is_of_nodes(out.event(EventType.POLICY_VERDICT).source_identity)


def test_a_deny_rule_keeps_out_nodes_with_the_label_only(node: PacketNode, policies: Policies) -> None:
    policies.node("sibling", SIBLING, "plain", NORTH)
    policies.rule("ingressDeny", fromNodes=[EDGE])
    assert node.receive(Packet(REMOTE_NODE, POD)).drop is Reason.POLICY_DENY_RULE
    assert node.receive(Packet(SIBLING, POD)).verdict == PASS
    assert node.receive(Packet(NODE, POD)).verdict == PASS, "a node always reaches its own pods"


def test_a_label_that_changes_moves_an_open_connection(node: PacketNode, policies: Policies) -> None:
    policies.rule("ingress", fromNodes=[EDGE])
    assert node.receive(Packet(SIBLING, POD)).verdict == PASS
    policies.node("sibling", SIBLING, "plain", NORTH)
    policies.write()
    assert node.receive(Packet(SIBLING, POD)).drop is Reason.POLICY_DENIED
    policies.node("sibling", SIBLING, "edge", NORTH)
    policies.write()
    assert node.receive(Packet(SIBLING, POD)).verdict == PASS


@pytest.mark.parametrize(("entity", "verdict"), [("remote-node", PASS), ("host", SHOT)])
def test_entities_mean_labelled_nodes_as_before(
    node: PacketNode, policies: Policies, entity: str, verdict: int
) -> None:
    policies.rule("ingress", fromEntities=[entity])
    before = node.receive(Packet(REMOTE_NODE, POD, source_port=1000)).verdict
    document = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "q", "namespace": "shop"},
        "spec": {"endpointSelector": {}, "ingress": [{"fromNodes": [{"matchLabels": {"x": "nobody"}}]}]},
    }
    policies.compiler.set_document(document, PolicyRef("CiliumNetworkPolicy", "shop", "q"))
    policies.write()
    out = node.receive(Packet(REMOTE_NODE, POD, source_port=1001))
    assert (before, out.verdict) == (verdict, verdict)
    assert is_of_nodes(out.events[0].source_identity)


def test_egress_to_nodes_includes_the_own_node(node: PacketNode, policies: Policies) -> None:
    policies.node("sibling", SIBLING, "plain", NORTH)
    policies.rule("egress", toNodes=[EDGE])
    assert node.send(Packet(POD, REMOTE_NODE)).verdict == PASS
    assert node.send(Packet(POD, NODE)).verdict == PASS
    assert node.send(Packet(POD, SIBLING)).drop is Reason.POLICY_DENIED
    policies.rule("egressDeny", toNodes=[EDGE])
    assert node.send(Packet(POD, REMOTE_NODE)).drop is Reason.POLICY_DENY_RULE
    assert node.send(Packet(POD, NODE)).drop is Reason.POLICY_DENY_RULE
    assert node.send(Packet(POD, SIBLING)).verdict == PASS


@pytest.mark.parametrize("selector", [EDGE, NOT_EDGE])
@pytest.mark.parametrize(("section", "reason"), [("ingress", 133), ("ingressDeny", 181)])
def test_a_node_whose_labels_are_not_known_is_nobody_to_allow_and_every_node_to_deny(
    node: PacketNode, policies: Policies, selector: dict[str, Any], section: str, reason: int
) -> None:
    policies.rule(section, fromNodes=[selector])
    node.ipcache("192.168.50.77/32", 6, cluster_id=2)
    assert node.receive(Packet("192.168.50.77", POD)).drop == reason


def test_the_overlay_tells_nodes_apart_by_their_address(node: PacketNode, policies: Policies) -> None:
    """The VNI is the reserved one of all nodes, as Cilium sends it."""
    policies.rule("ingress", fromNodes=[EDGE])
    out = node.overlay(Packet(REMOTE_NODE, POD), identity=6)
    assert out.verdict == REDIRECT
    assert is_of_nodes(out.event(EventType.POLICY_VERDICT).source_identity)
    policies.node("remote", REMOTE_NODE, "plain", SOUTH)
    policies.write()
    assert node.overlay(Packet(REMOTE_NODE, POD, UDP), identity=6).drop is Reason.POLICY_DENIED


def test_a_labelled_node_still_speaks_for_its_pods(node: PacketNode, policies: Policies) -> None:
    policies.rule("egress", toNodes=[EDGE])
    assert any(value.identity for _, value in node.maps.ipcache.items() if is_of_nodes(value.identity))
    assert node.overlay(Packet(REMOTE_POD, POD)).verdict == REDIRECT
    assert node.leave(VXLAN).drop is Reason.ENCAPSULATION_PROHIBITED
