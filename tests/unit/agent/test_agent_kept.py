# SPDX-License-Identifier: Apache-2.0
"""Backends that nothing selects: who holds them, who ends them, and who goes first when the map is short of room."""

from __future__ import annotations

import pytest

from agent.datapath.layout import BackendKey, BackendState
from agent.datapath.memory import MemoryMaps, memory_maps
from agent.loadbalancer.follower import AddressFollower
from agent.loadbalancer.known_addresses import KnownAddresses
from agent.loadbalancer.ops import LoadBalancerTarget
from agent.loadbalancer.registry import KEPT_SHARE
from agent.loadbalancer.writer import LoadBalancerWriter
from agent.tables import AgentDB, Backend, BackendSet, ClaimOrigin, Frontend, FrontendKey, Prefix, Target
from meshmodel.names import ClusterId, ClusterName, ServiceName

NORTH, SOUTH = ClusterName("north"), ClusterName("south")
ECHO = ServiceName("test", "echo")


def target(number: int, cluster_id: int = 1) -> Target:
    return Target(f"10.1.0.{number}", 8080, "TCP", cluster_id)


def frontend(*numbers: int, name: str = "echo", address: str = "10.96.0.1") -> Frontend:
    key = FrontendKey(address, 80, "TCP")
    return Frontend(key, ServiceName("test", name), "ClusterIP", "", tuple(target(n) for n in numbers))


def prune(node: Node, *rows: Frontend) -> None:
    """The maps are compared, and hold nothing else than these frontends."""
    list(node.target.prune({row.key: row for row in rows}))


class Node:
    def __init__(self, size: int = 64) -> None:
        self.db = AgentDB(NORTH, ClusterId(1))
        self.maps: MemoryMaps = memory_maps({"mesh_backends": size})
        self.restart()

    def restart(self) -> None:
        owner_of = KnownAddresses(self.db).owner_of
        self.target = LoadBalancerTarget(self.maps, lambda: 0.0, owner_of=owner_of)
        self.target.restore()
        self.follower = AddressFollower(self.db, LoadBalancerWriter(self.db), (self.target.backends,))

    def pod(self, number: int, name: str = "p", cluster_id: int = 1) -> None:
        cluster = NORTH if cluster_id == 1 else SOUTH
        with self.db.write():
            self.db.prefixes.put(
                Prefix(
                    f"10.1.0.{number}/32", 70_000, "", cluster, ClusterId(cluster_id), ClaimOrigin.POD,
                    namespace="test", name=name,
                )
            )  # fmt: skip

    def pods(self, *numbers: int) -> None:
        for number in numbers:
            self.pod(number)

    def no_pod(self, number: int) -> None:
        with self.db.write():
            self.db.prefixes.delete(f"10.1.0.{number}/32")

    def lists(self, *numbers: int) -> None:
        backends = tuple(Backend(f"10.1.0.{n}", 8080, "TCP") for n in numbers)
        with self.db.write():
            self.db.backends.put(BackendSet(ECHO, NORTH, ClusterId(1), backends))

    def write(self, *rows: Frontend) -> None:
        assert not self.target.update(rows)

    def states(self) -> dict[int, int]:
        """By the last number of its address."""
        return {int(v.address.rpartition(".")[2]): v.state for _, v in self.maps.backends.items()}

    def ids(self) -> dict[int, int]:
        return {int(v.address.rpartition(".")[2]): k.id for k, v in self.maps.backends.items()}


def test_a_deselected_backend_is_kept_while_its_pod_lives_and_ends_with_it() -> None:
    node = Node()
    node.pods(1, 2)
    node.write(frontend(1, 2))
    before = node.ids()
    node.write(frontend(1))
    assert node.states() == {1: BackendState.ACTIVE, 2: BackendState.MAINTENANCE}
    node.follower.step()
    assert node.ids() == before
    node.no_pod(2)
    node.follower.step()
    assert node.states() == {1: BackendState.ACTIVE}


def test_a_backend_whose_address_went_first_is_not_kept() -> None:
    node = Node()
    node.pods(1)
    node.write(frontend(1, 2))
    node.write(frontend(1))
    assert node.states() == {1: BackendState.ACTIVE}


def test_an_address_that_only_slices_know_is_kept_until_none_lists_it() -> None:
    node = Node()
    node.lists(1, 2)
    node.write(frontend(1, 2))
    node.write(frontend())
    assert set(node.states()) == {1, 2}
    node.lists(1)
    node.follower.step()
    assert set(node.states()) == {1}


@pytest.mark.parametrize("heir", [("p", 2), ("another", 1)], ids=["of another cluster", "another pod"])
def test_an_address_that_changed_hands_ends_the_connections_of_the_first(heir: tuple[str, int]) -> None:
    node = Node()
    node.pods(1)
    node.write(frontend(1))
    node.write(frontend())
    node.pod(1, *heir)
    node.follower.step()
    assert node.states() == {}


def test_nobody_is_gone_before_the_first_listing_of_addresses_is_complete() -> None:
    node = Node()
    done = node.db.prefixes.expect("own store")
    node.write(frontend(1))
    node.write(frontend())
    assert set(node.states()) == {1}
    done()
    prune(node, frontend())
    assert node.states() == {}


def test_ids_survive_deselection_a_new_service_and_restarts() -> None:
    node = Node()
    node.pods(1, 2)
    node.write(frontend(1, 2))
    ids, head = node.ids(), [v for k, v in node.maps.services.items() if not k.slot]
    assert not node.target.delete([frontend(1, 2)])
    node.restart()
    prune(node)
    assert node.ids() == ids
    node.write(frontend(2, 1))
    assert node.ids() == ids
    assert [v for k, v in node.maps.services.items() if not k.slot] == head
    assert set(node.states().values()) == {BackendState.ACTIVE}
    again = Node()
    again.write(frontend(1, 2))
    assert again.ids() == ids


def test_an_entry_found_at_start_is_looked_at_by_the_first_prune() -> None:
    node = Node()
    node.lists(1, 2)
    node.write(frontend(1, 2, 3))
    node.write(frontend())
    node.restart()
    prune(node, frontend())
    assert set(node.states()) == {1, 2}


def test_a_backend_that_was_never_offered_is_not_kept() -> None:
    node = Node()
    node.pods(1, 2)
    node.maps.services.fail_after(0)  # type: ignore[attr-defined]
    assert node.target.update([frontend(1, 2)])
    assert node.states() == {}
    node.write(frontend())
    row = frontend(address="10.96.0.2")
    draining = Frontend(row.key, row.service, row.kind, "", (), (target(3),))
    node.pods(3)
    node.write(draining)
    assert node.states()[3] == BackendState.TERMINATING
    assert not node.target.delete([draining])
    assert 3 not in node.states()


def test_kept_backends_make_room_oldest_first_and_are_counted() -> None:
    node = Node(size=4)
    node.pods(*range(1, 10))
    node.write(frontend(1, 2, 3))
    node.write(frontend(2, 3))
    node.write(frontend(3))
    registry = node.target.backends
    assert node.states() == {2: BackendState.MAINTENANCE, 3: BackendState.ACTIVE}, f"at most 1/{KEPT_SHARE} of the map"
    assert registry.given_up_total == 1
    node.write(frontend(3, 4, 5))
    assert set(node.states()) == {2, 3, 4, 5}
    node.write(frontend(3, 4, 5, 6))
    assert set(node.states()) == {3, 4, 5, 6}
    assert registry.given_up_total == 2


def test_kept_backends_are_not_given_up_for_what_does_not_fit_anyway() -> None:
    node = Node(size=8)
    node.pods(*range(1, 20))
    node.write(frontend(1, 2))
    node.write(frontend(2))
    failures = node.target.update([frontend(*range(2, 20))])
    assert "full" in str(failures[FrontendKey("10.96.0.1", 80, "TCP")])
    assert set(node.states()) == {1, 2}
    assert node.target.backends.given_up_total == 0


def test_the_id_of_a_removed_backend_is_nobody_elses() -> None:
    node = Node()
    node.write(frontend(1, 2))
    old = node.ids()
    node.write(frontend(1))
    node.restart()
    node.write(frontend(1, 3))
    assert old[2] not in {key.id for key, _ in node.maps.backends.items()}
    assert node.maps.backends.get(BackendKey(old[2])) is None
