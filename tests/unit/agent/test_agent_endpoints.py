# SPDX-License-Identifier: Apache-2.0
"""Pods of this node are found, kept under their id, found anew when they change, and let go; liveness of peers is a rule."""

from __future__ import annotations

import pytest

from agent.datapath.netlink import EndpointInterface
from agent.endpoints.discovery import VERIFY_S, EndpointDiscovery
from agent.ipcache.writer import PrefixWriter
from agent.mesh.liveness import Liveness, Signals, decide, is_cache_expired
from agent.tables import AgentDB, Origin, Prefix
from meshmodel.names import ClusterId, ClusterName

NORTH = ClusterName("north")
MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")


class Node:
    def __init__(self, ids: dict[str, int] | None = None) -> None:
        self.db = AgentDB(NORTH, ClusterId(1), "n1", "172.18.0.2")
        self.prefixes = PrefixWriter(self.db)
        self.interfaces: dict[str, int] = {}
        self.asked: list[str] = []
        self.discovery = EndpointDiscovery(self.db, self._find)
        self.discovery.restore(ids or {})

    def _find(self, address: str) -> EndpointInterface | None:
        self.asked.append(address)
        ifindex = self.interfaces.get(address)
        return None if ifindex is None else EndpointInterface(ifindex, *MACS)

    def pod(self, address: str, host: str = "172.18.0.2", name: str = "p", cluster: str = "north") -> None:
        row = Prefix(f"{address}/32", 65_537, "", ClusterName(cluster), ClusterId(1), Origin.POD, host, "default", name)
        with self.db.write():
            self.prefixes.set_pod(row)

    def found(self) -> dict[str, tuple[int, int]]:
        return {e.address: (e.endpoint_id, e.ifindex) for e in self.db.endpoints.rows()}


def test_only_pods_of_this_node_become_endpoints() -> None:
    node = Node()
    node.interfaces = {f"10.1.0.{n}": n for n in range(1, 4)}
    node.pod("10.1.0.1")
    node.pod("10.1.0.2", host="172.18.0.3")
    node.pod("10.1.0.3", cluster="south")
    node.discovery.step(0.0)
    assert node.found() == {"10.1.0.1": (1, 1)}


def test_an_interface_that_is_not_there_yet_is_looked_for_again() -> None:
    node = Node()
    node.pod("10.1.0.1")
    due_s = node.discovery.step(0.0)
    assert node.discovery.waiting == ("10.1.0.1",)
    assert due_s is not None
    node.interfaces["10.1.0.1"] = 5
    node.discovery.step(due_s / 2)
    assert node.found() == {}
    assert node.discovery.step(due_s) == due_s + VERIFY_S
    assert node.found() == {"10.1.0.1": (1, 5)}
    assert node.discovery.waiting == ()


def test_a_restarted_agent_keeps_the_ids_that_the_maps_hold() -> None:
    node = Node({"10.1.0.9": 41, "10.1.0.8": 7})
    node.interfaces = {"10.1.0.9": 1, "10.1.0.1": 2}
    node.pod("10.1.0.9")
    node.pod("10.1.0.1")
    node.discovery.step(0.0)
    assert node.found() == {"10.1.0.9": (41, 1), "10.1.0.1": (42, 2)}


def test_an_address_that_comes_back_with_another_pod_is_looked_up_at_once() -> None:
    node = Node()
    node.interfaces["10.1.0.1"] = 5
    node.pod("10.1.0.1")
    node.discovery.step(0.0)
    node.interfaces["10.1.0.1"] = 6
    node.pod("10.1.0.1", name="other")
    node.discovery.step(0.1)
    assert node.found()["10.1.0.1"][1] == 6


def test_a_pod_that_is_gone_is_let_go_and_its_id_is_not_used_at_once() -> None:
    node = Node()
    node.interfaces = {"10.1.0.1": 5, "10.1.0.2": 6}
    node.pod("10.1.0.1")
    node.discovery.step(0.0)
    with node.db.write():
        node.prefixes.delete_pod(NORTH, "10.1.0.1/32")
    node.discovery.step(0.1)
    assert node.found() == {}
    node.pod("10.1.0.2")
    node.discovery.step(0.2)
    assert node.found() == {"10.1.0.2": (2, 6)}


def test_a_change_during_a_look_up_makes_its_result_void() -> None:
    node = Node()
    node.interfaces["10.1.0.1"] = 5
    node.pod("10.1.0.1")
    due = node.discovery.begin(0.0)
    found = node.discovery.look_up(due)
    node.interfaces["10.1.0.1"] = 6
    node.pod("10.1.0.1", name="other")
    node.discovery.begin(0.1)
    node.discovery.finish(due, found, 0.1)
    assert node.found() == {}
    node.discovery.step(0.2)
    assert node.found() == {"10.1.0.1": (1, 6)}


@pytest.mark.parametrize(
    ("control", "data", "has_probes", "now", "expected"),
    [
        (None, None, True, 100, Liveness.CONNECTED),
        (50, None, True, 1_000, Liveness.FROZEN),
        (50, None, False, 1_000, Liveness.FROZEN),
        (50, 60, False, 1_000, Liveness.FROZEN),
        (50, 60, True, 69, Liveness.FROZEN),
        (50, 60, True, 70, Liveness.WITHDRAWN),
        (95, 60, True, 100, Liveness.FROZEN),
        (None, 60, True, 69, Liveness.CONNECTED),
        (None, 60, True, 70, Liveness.WITHDRAWN),
    ],
)
def test_only_a_peer_without_a_data_path_is_withdrawn_and_only_after_the_bound(
    control: float | None, data: float | None, has_probes: bool, now: float, expected: Liveness
) -> None:
    verdict = decide(now, Signals(control, data, has_probes), 10.0)
    assert verdict.liveness is expected
    assert bool(verdict.reason) == (expected is not Liveness.CONNECTED or data is not None)


def test_the_bound_cannot_be_set_below_three_seconds() -> None:
    assert decide(62.5, Signals(50, 60, True), 0.1).liveness is Liveness.FROZEN
    assert decide(63.0, Signals(50, 60, True), 0.1).liveness is Liveness.WITHDRAWN


def test_a_cache_without_a_lifetime_never_expires() -> None:
    assert not is_cache_expired(1e9, 0.0, 0.0)
    assert not is_cache_expired(59.0, 0.0, 60.0)
    assert is_cache_expired(60.0, 0.0, 60.0)
    assert not is_cache_expired(1e9, None, 60.0)
