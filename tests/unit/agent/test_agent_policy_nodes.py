# SPDX-License-Identifier: Apache-2.0
"""Identities of nodes by label: allocated while rules ask for labels, and never ahead of the policies that know them."""

from __future__ import annotations

from typing import Any

import pytest

from agent.identity.writer import IdentityWriter
from agent.ipcache.writer import PrefixWriter
from agent.mesh.record_rows import Reader
from agent.policy import nodes
from agent.policy.compiler import PolicyCompiler
from agent.policy.nodes import NodeFollower, NodeVerbs
from agent.policy.services import ServiceResolver
from agent.tables import (
    AgentDB,
    Backend,
    BackendSet,
    ClaimOrigin,
    Endpoint,
    Identity,
    LabelledService,
    Node,
    NodeAddress,
    pack_labels,
)
from meshmodel.identity import Reserved, identity_range, is_of_nodes
from meshmodel.labels import CLUSTER_LABEL, pod_labels
from meshmodel.names import ClusterId, ClusterName, ServiceName
from meshmodel.node import MeshNode
from meshpolicy import Direction, PolicyContext, PolicyRef, differences

NORTH, SOUTH = ClusterName("north"), ClusterName("south")
POD = "10.1.0.1"
EDGE = {"matchLabels": {"role": "edge"}}
ANY_CLUSTER = {"key": CLUSTER_LABEL, "operator": "Exists"}
NOT_BAD = {"matchExpressions": [{"key": "state", "operator": "NotIn", "values": ["bad"]}]}


class World:
    """A compiler with one pod and some nodes; the kernel writes when it is told to."""

    def __init__(self) -> None:
        self.db = AgentDB(NORTH, ClusterId(1), "own", "172.18.0.1")
        self.writer = PrefixWriter(self.db)
        self.is_written = self.are_addresses_written = True
        identities = IdentityWriter(self.db)
        verbs = NodeVerbs(
            identities.set_identity,
            identities.delete_identity,
            self.writer.set_node_identities,
            lambda: self.is_written,
            lambda: self.are_addresses_written,
        )
        follower = NodeFollower(self.db, verbs)
        self.compiler = PolicyCompiler(self.db, PolicyContext(NORTH), self.writer.set_policy_prefixes, follower)
        with self.db.write():
            labels = pod_labels({"app": "a"}, "shop", {}, "default", NORTH)
            self.db.identities.put(Identity(300, NORTH, labels))
            self.db.endpoints.put(Endpoint(POD, 1, 1, "", "", 300, "shop", "a"))

    def node(self, name: str, ip: str, cluster: ClusterName = NORTH, **labels: str) -> None:
        row = Node(
            cluster,
            ClusterId(1 if cluster == NORTH else 2),
            name,
            (NodeAddress("InternalIP", ip),),
            (),
            packed_labels=pack_labels(labels),
        )
        with self.db.write():
            self.db.nodes.put(row)
            self.writer.set_node(row)

    def policy(self, selector: dict[str, Any] | None, section: str = "ingress") -> None:
        """The only policy; None: it is gone."""
        ref = PolicyRef("CiliumNetworkPolicy", "shop", "p")
        if selector is None:
            self.compiler.remove_document(ref)
        else:
            spec: dict[str, Any] = {"endpointSelector": {}, section: [{"fromNodes": [selector]}]}
            if section.endswith("Deny"):
                spec["ingress"] = [{"fromEntities": ["all"]}]
            meta = {"name": "p", "namespace": "shop"}
            document = {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": meta, "spec": spec}
            assert self.compiler.set_document(document, ref).is_valid
        self.step()

    def step(self) -> None:
        self.compiler.step()
        assert differences(self.compiler.engine) == ()

    def number(self, ip: str) -> int:
        """What the ipcache says of the address."""
        row = self.db.prefixes.get(f"{ip}/32")
        assert row is not None
        return row.identity

    def admits(self, ip: str) -> bool:
        """Whether the pod's entries let the address in, as the ipcache says who it is."""
        row = self.db.verdicts.get(POD)
        assert row is not None
        return row.policy.verdict(Direction.INGRESS, self.number(ip), 6, 80).allowed

    def node_numbers(self) -> set[int]:
        return {row.id for row in self.db.identities.rows() if is_of_nodes(row.id) or row.id == Reserved.HOST}


def test_nodes_have_the_identity_of_all_nodes_while_no_rule_asks_for_their_labels() -> None:
    world = World()
    world.node("own", "172.18.0.1", role="edge")
    world.node("n1", "172.18.0.2", role="edge")
    world.step()
    assert world.number("172.18.0.2") == Reserved.REMOTE_NODE
    assert world.node_numbers() == set()
    world.policy(EDGE)
    assert is_of_nodes(world.number("172.18.0.2"))
    assert world.number("172.18.0.1") == Reserved.HOST
    world.policy(None)
    world.step()
    assert world.number("172.18.0.2") == Reserved.REMOTE_NODE
    assert world.node_numbers() == set()


def test_nodes_with_the_same_labels_share_a_number_that_a_restart_gives_again() -> None:
    numbers = []
    for order in (("n1", "n2", "n3"), ("n3", "n2", "n1")):
        world = World()
        for name in order:
            world.node(name, f"172.18.0.{name[1]}", role="core" if name == "n3" else "edge", host=name)
        world.policy(EDGE)
        numbers.append([world.number(f"172.18.0.{n}") for n in (1, 2, 3)])
    assert numbers[0] == numbers[1]
    assert numbers[0][0] == numbers[0][1] != numbers[0][2]
    assert all(is_of_nodes(number) for number in numbers[0])


def test_an_address_moves_when_the_policies_that_know_its_number_are_written() -> None:
    """Ahead of them it would be judged by no rule at all, or by an allow rule without the deny rule beside it."""
    world = World()
    world.node("n1", "172.18.0.2", role="edge")
    world.policy(EDGE)
    old = world.number("172.18.0.2")
    world.node("n1", "172.18.0.2", role="core")
    world.is_written = False
    world.step()
    assert world.number("172.18.0.2") == old
    assert world.compiler.waits_for_verdicts
    world.is_written, world.are_addresses_written = True, False
    world.step()
    new = world.number("172.18.0.2")
    assert new != old
    assert {old, new} <= world.node_numbers(), "the kernel may still say the old one"
    world.are_addresses_written = True
    world.step()
    assert old not in world.node_numbers()
    assert not world.admits("172.18.0.2")


def test_a_key_that_was_not_looked_up_is_not_an_absent_label() -> None:
    """The second rule asks for another label; until addresses moved, nobody is said to be without it."""
    world = World()
    world.node("n1", "172.18.0.2", role="edge", state="bad")
    world.policy(EDGE)
    assert world.admits("172.18.0.2")
    world.is_written = False
    for section, is_admitted in (("ingress", False), ("ingressDeny", False)):
        world.policy(NOT_BAD, section)
        assert world.admits("172.18.0.2") is is_admitted
    world.is_written = True
    world.step()
    assert world.admits("172.18.0.2"), "the deny rule does not mean it"


def test_a_peers_node_is_meant_where_its_cluster_is_and_goes_with_it() -> None:
    world = World()
    world.node("n1", "172.18.0.2", role="edge")
    world.node("n1", "172.19.0.2", SOUTH, role="edge", **{CLUSTER_LABEL: "north"})
    world.policy(EDGE)
    assert (world.admits("172.18.0.2"), world.admits("172.19.0.2")) == (True, False)
    world.policy({"matchLabels": {"role": "edge", CLUSTER_LABEL: "south"}})
    assert (world.admits("172.18.0.2"), world.admits("172.19.0.2")) == (False, True)
    gone = world.number("172.19.0.2")
    with world.db.write():
        world.db.nodes.delete((SOUTH, "n1"))
        world.writer.drain_cluster(SOUTH, (ClaimOrigin.NODE,))
    world.step()
    world.step()
    assert gone not in world.node_numbers()
    assert world.db.prefixes.get("172.19.0.2/32") is None


def test_a_node_that_comes_later_is_nobody_until_its_number_is_written() -> None:
    world = World()
    world.policy(EDGE)
    world.is_written = False
    world.node("n9", "172.18.0.9", role="edge")
    world.step()
    assert world.number("172.18.0.9") == Reserved.REMOTE_NODE
    assert not world.admits("172.18.0.9")
    world.is_written = True
    world.step()
    assert world.admits("172.18.0.9")


def test_a_backend_on_a_labelled_node_still_stands_for_nodes() -> None:
    """An allow rule for a service leaves such a backend out, whatever number its node has here."""
    world = World()
    world.node("n1", "172.18.0.2", role="edge")
    world.policy(EDGE)
    name = ServiceName("shop", "web")
    with world.db.write():
        world.db.labelled_services.put(LabelledService(name, ()))
        world.db.backends.put(BackendSet(name, NORTH, ClusterId(1), (Backend("172.18.0.2", 80, "TCP"),)))
    ((peers,), _) = ServiceResolver(world.db).take(wanted=True)
    assert (peers.identities, peers.reserved) == (frozenset(), {world.number("172.18.0.2")})


def test_labels_that_nobody_asks_for_are_no_larger_than_their_record() -> None:
    """What a peer's caps let in is counted in bytes of records; parsed, a thousand short labels would be twenty times that."""
    labels = {f"k{n}": "v" for n in range(4096)}
    record = MeshNode(cluster=SOUTH, cluster_id=ClusterId(2), name="n1", labels=labels).encode()
    row = Reader(SOUTH, ClusterId(2), identity_range(2), ClusterName("north")).node("n1", record)
    assert len(row.packed_labels) <= len(record)
    assert row.labels == labels


def test_a_peer_cannot_fill_maps_with_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a bound its nodes are of unknown labels, and told; they come in when others go. The own cluster has none."""
    monkeypatch.setattr(nodes, "MOST_OF_A_PEER", 2)
    world = World()
    for n in range(1, 5):
        world.node(f"n{n}", f"172.19.0.{n}", SOUTH, role=f"r{n}")
        world.node(f"n{n}", f"172.18.0.{n}", role=f"r{n}")
    world.policy({"matchExpressions": [{"key": "role", "operator": "NotIn", "values": ["x"]}, ANY_CLUSTER]})
    assert [world.admits(f"172.18.0.{n}") for n in range(1, 5)] == [True] * 4
    assert [world.admits(f"172.19.0.{n}") for n in range(1, 5)] == [True, True, False, False]
    assert [text.split(" are ")[0] for text in world.compiler.node_problems()] == ["2 nodes of south"]
    world.node("n1", "172.19.0.1", SOUTH, role="r2")
    world.step()
    world.step()
    assert [world.admits(f"172.19.0.{n}") for n in range(1, 5)] == [True, True, True, False]
    world.policy(None)
    world.step()
    assert (world.compiler.node_problems(), world.node_numbers()) == ([], set())
