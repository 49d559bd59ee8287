# SPDX-License-Identifier: Apache-2.0
"""Backends behind a node that cannot be reached from here take no new connections, unless nothing else is left."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.datapath.memory import memory_maps
from agent.loadbalancer.follower import AddressFollower
from agent.loadbalancer.registry import BackendRegistry
from agent.loadbalancer.writer import LoadBalancerWriter
from agent.tables import (
    Address,
    AgentDB,
    Backend,
    ClaimOrigin,
    FrontendKey,
    PeerHealth,
    Prefix,
    Service,
    ServicePort,
)
from agent.unwell import LostNode
from meshmodel.annotations import Affinity
from meshmodel.names import ClusterId, ClusterName, ServiceName

NORTH, SOUTH = ClusterName("north"), ClusterName("south")
ECHO = ServiceName("test", "echo")
KEY = FrontendKey("10.96.0.1", 80, "TCP")
NODES = {"10.1.0": "172.18.0.2", "10.2.0": "172.18.0.5", "10.2.1": "172.18.0.6"}


class World:
    def __init__(self, affinity: Affinity = Affinity.NONE, *, is_global: bool = True) -> None:
        self.db = AgentDB(NORTH, ClusterId(1))
        self.writer = LoadBalancerWriter(self.db)
        self.follower = AddressFollower(self.db, self.writer, (BackendRegistry(memory_maps().backends),))
        ports = (ServicePort("", 80, "TCP"),)
        with self.db.write():
            self.writer.set_peer(PeerHealth(SOUTH, ClusterId(2)))
            self.writer.set_service(Service(ECHO, (Address(KEY.address),), ports, is_global, affinity=affinity))

    def backends(self, cluster: ClusterName, *addresses: str, healthy: bool = True) -> None:
        number = ClusterId(1 if cluster == NORTH else 2)
        with self.db.write():
            found = [Backend(a, 80, "TCP", is_healthy=healthy) for a in addresses]
            self.writer.set_backends(ECHO, cluster, number, found, 0.0)
            for address in addresses:
                host = NODES[address.rpartition(".")[0]]
                self.db.prefixes.put(Prefix(f"{address}/32", 70_000, host, cluster, number, ClaimOrigin.POD, host=host))
        self.follower.step()

    def lose(self, *nodes: str) -> None:
        with self.db.write():
            for row in list(self.db.lost_nodes.rows()):
                self.db.lost_nodes.delete(row.ip)
            for node in nodes:
                self.db.lost_nodes.put(LostNode(node, SOUTH, "no answer"))
        self.follower.step()

    def chosen(self) -> list[str]:
        row = self.db.frontends.get(KEY)
        assert row is not None
        return [t.address for t in row.chosen]

    def reason(self) -> str:
        service = self.db.services.get(ECHO)
        assert service is not None
        return self.writer.chooser.choose(service, service.ports[0])[0].reason


def test_a_lost_node_leaves_selection_and_comes_back() -> None:
    world = World()
    world.backends(SOUTH, "10.2.0.1", "10.2.1.1")
    assert world.chosen() == ["10.2.0.1", "10.2.1.1"]
    world.lose("172.18.0.5")
    assert world.chosen() == ["10.2.1.1"]
    world.lose()
    assert world.chosen() == ["10.2.0.1", "10.2.1.1"]


def test_with_nothing_else_left_all_are_kept_and_it_is_said() -> None:
    world = World()
    world.backends(SOUTH, "10.2.0.1", "10.2.1.1")
    world.lose("172.18.0.5", "172.18.0.6")
    assert world.chosen() == ["10.2.0.1", "10.2.1.1"]
    assert "unreachable nodes and withdrawn peers are kept" in world.reason()


@pytest.mark.parametrize(
    ("affinity", "lost", "expected"),
    [
        (Affinity.LOCAL, ["172.18.0.2"], ["10.2.0.1"]),
        (Affinity.REMOTE, ["172.18.0.5"], ["10.1.0.1"]),
        (Affinity.LOCAL, ["172.18.0.5"], ["10.1.0.1"]),
        (Affinity.LOCAL, ["172.18.0.2", "172.18.0.5"], ["10.1.0.1"]),
    ],
)
def test_affinity_counts_lost_backends_as_unhealthy(affinity: Affinity, lost: list[str], expected: list[str]) -> None:
    world = World(affinity)
    world.backends(NORTH, "10.1.0.1")
    world.backends(SOUTH, "10.2.0.1")
    world.lose(*lost)
    assert world.chosen() == expected


def test_affinity_local_without_local_pods_keeps_what_is_lost() -> None:
    world = World(Affinity.LOCAL)
    world.backends(SOUTH, "10.2.0.1")
    world.lose("172.18.0.5")
    assert world.chosen() == ["10.2.0.1"]


def test_a_service_of_this_cluster_leaves_a_lost_node_too() -> None:
    world = World(is_global=False)
    world.backends(NORTH, "10.1.0.1", "10.2.1.9")
    world.lose("172.18.0.2")
    assert world.chosen() == ["10.2.1.9"]


def test_what_becomes_known_of_a_lost_node_later_counts_too() -> None:
    world = World()
    world.lose("172.18.0.5")
    world.backends(SOUTH, "10.2.0.1", "10.2.1.1")
    assert world.chosen() == ["10.2.1.1"]


def test_a_sick_backend_that_answers_is_no_better_than_a_lost_one() -> None:
    world = World()
    world.backends(NORTH, "10.1.0.1", healthy=False)
    world.backends(SOUTH, "10.2.0.1")
    world.lose("172.18.0.5")
    assert world.chosen() == ["10.1.0.1", "10.2.0.1"]


def test_a_pod_that_moves_to_another_node_or_goes_is_judged_by_where_it_is() -> None:
    world = World()
    world.backends(SOUTH, "10.2.0.1", "10.2.1.1")
    world.lose("172.18.0.5")
    with world.db.write():
        row = world.db.prefixes.get("10.2.0.1/32")
        assert row is not None
        world.db.prefixes.put(replace(row, host="172.18.0.6"))
    world.follower.step()
    assert world.chosen() == ["10.2.0.1", "10.2.1.1"]
    with world.db.write():
        world.db.prefixes.put(row)
    world.follower.step()
    assert world.chosen() == ["10.2.1.1"]
    with world.db.write():
        world.db.prefixes.delete("10.2.0.1/32")
    world.follower.step()
    assert world.chosen() == ["10.2.0.1", "10.2.1.1"], "nothing says where it is"
