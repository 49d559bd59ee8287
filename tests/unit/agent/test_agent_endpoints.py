# SPDX-License-Identifier: Apache-2.0
"""Pods of this node are found, kept under their id, found anew when they change, and let go."""

from __future__ import annotations

import pytest

from agent.datapath.layout import EndpointValue
from agent.datapath.pod_interfaces import EndpointInterface, LinkSighting
from agent.datapath.rtnetlink import LinkChanges
from agent.endpoints.discovery import LOOK_AGAIN_S, RECHECK_S, RETRY_MINIMUM_S, EndpointDiscovery
from agent.ipcache.writer import PrefixWriter
from agent.tables import AgentDB, ClaimOrigin, Node, NodeAddress, Prefix
from meshmodel.identity import UNKNOWN
from meshmodel.names import ClusterId, ClusterName

NORTH = ClusterName("north")
NODE_IP, IDENTITY = "172.18.0.2", 65_537
MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")


class ThisNode:
    """Routes and interfaces of a node, and the discovery that looks at them."""

    def __init__(self, ids: dict[str, int] | None = None) -> None:
        self.db = AgentDB(NORTH, ClusterId(1), "n1", NODE_IP)
        self.prefixes = PrefixWriter(self.db)
        self.routes: dict[str, int] = {}
        self.links: set[int] = set()
        self.bridges: dict[str, int] = {}
        self.asked: list[str] = []
        self.failing: set[str] = set()
        self.discovery = EndpointDiscovery(self.db)
        self.discovery.restore(
            EndpointValue(90 + number, number, 0, IDENTITY, 1, *MACS, address)
            for address, number in (ids or {}).items()
        )

    def see(self, address: str, known: int) -> LinkSighting:
        self.asked.append(address)
        if address in self.failing:
            return LinkSighting(error="netlink: no buffer")
        ifindex, bridge = self.routes.get(address), self.bridges.get(address, 0)
        if ifindex is None:
            return LinkSighting(None, is_there=known in self.links, bridge=bridge)
        self.links.add(ifindex)
        return LinkSighting(EndpointInterface(ifindex, *MACS, bridge), bridge=bridge)

    def step(self, now_s: float = 0.0) -> float:
        due = self.discovery.begin(now_s)
        return self.discovery.finish(due, [self.see(*wanted.asked) for wanted in due], now_s)

    def pod(self, address: str, host: str = NODE_IP, name: str = "p", cluster: str = "north") -> None:
        row = Prefix(
            f"{address}/32", IDENTITY, "", ClusterName(cluster), ClusterId(1), ClaimOrigin.POD, host, "default", name
        )
        with self.db.write():
            self.prefixes.set_pod(row)

    def meet_other(self, address: str) -> None:
        """Another node of our cluster is known to have the address."""
        with self.db.write():
            self.db.nodes.put(Node(NORTH, ClusterId(1), "n2", (NodeAddress("InternalIP", address),), ()))

    def forget(self, address: str) -> None:
        """The pod's record is gone."""
        with self.db.write():
            self.prefixes.delete_pod(NORTH, f"{address}/32")

    def remove_link(self, ifindex: int) -> None:
        """The interface and the routes over it are gone; the node hears of the interface only."""
        self.links.discard(ifindex)
        self.routes = {a: i for a, i in self.routes.items() if i != ifindex}
        self.discovery.note(LinkChanges(gone=frozenset({ifindex})))

    def found(self) -> dict[str, tuple[int, int]]:
        return {e.address: (e.endpoint_id, e.ifindex) for e in self.db.endpoints.rows()}


def test_only_pods_of_this_node_become_endpoints() -> None:
    node = ThisNode()
    node.routes = {f"10.1.0.{n}": n for n in range(1, 4)}
    node.pod("10.1.0.1")
    node.pod("10.1.0.2", host="172.18.0.3")
    node.pod("10.1.0.3", cluster="south")
    node.step()
    assert node.found() == {"10.1.0.1": (1, 1)}


def test_an_interface_that_comes_later_is_found_by_its_route() -> None:
    node = ThisNode()
    node.pod("10.1.0.1")
    node.step()
    assert node.discovery.waiting == ("10.1.0.1",)
    node.routes["10.1.0.1"] = 5
    node.discovery.note(LinkChanges(routes=frozenset({"10.1.0.1/32"})))
    node.step()
    assert node.found() == {"10.1.0.1": (1, 5)}
    assert node.discovery.waiting == ()


@pytest.mark.parametrize(
    ("changes", "is_asked"),
    [
        (LinkChanges(), False),
        (
            LinkChanges(links=frozenset({3}), gone=frozenset({4}), routes=frozenset({"10.1.9.9/32", "10.7.0.0/16"})),
            False,
        ),
        (LinkChanges(routes=frozenset({"10.1.0.0/24"})), True),
        (LinkChanges(routes=frozenset({"0.0.0.0/0"})), True),
        (LinkChanges(is_all=True), True),
    ],
)
def test_pods_without_an_interface_cost_nothing_until_something_of_theirs_changes(
    changes: LinkChanges, is_asked: bool
) -> None:
    node = ThisNode()
    for n in range(1, 100):
        node.pod(f"10.1.0.{n}")
    assert node.step() == RECHECK_S
    node.asked.clear()
    node.discovery.note(changes)
    assert node.step(RECHECK_S - 1.0) == RECHECK_S
    assert len(node.asked) == (99 if is_asked else 0)


def test_everything_is_looked_at_again_now_and_then() -> None:
    node = ThisNode()
    node.routes["10.1.0.1"] = 5
    node.pod("10.1.0.1")
    node.pod("10.1.0.2")
    node.step()
    node.routes["10.1.0.2"] = 6  # nobody said so
    assert node.step(RECHECK_S) == 2 * RECHECK_S
    assert node.found() == {"10.1.0.1": (1, 5), "10.1.0.2": (2, 6)}


@pytest.mark.parametrize("record_first", [True, False])
def test_a_pod_stays_enforced_while_its_node_gets_another_address(record_first: bool) -> None:
    node = ThisNode()
    node.routes["10.1.0.1"] = 5
    node.pod("10.1.0.1")
    node.step()

    def move() -> None:
        with node.db.write():
            node.prefixes.move_own_node("172.18.0.9")

    steps = [move, lambda: node.pod("10.1.0.1", host="172.18.0.9")]
    for happens in reversed(steps) if record_first else steps:
        happens()
        node.step()
        assert node.found() == {"10.1.0.1": (1, 5)}
    assert node.db.endpoints.get("10.1.0.1").pod == "p"  # type: ignore[union-attr]
    node.routes["10.1.0.2"] = 6
    node.pod("10.1.0.2", host=NODE_IP)  # the kubelet has not renewed its status
    node.step()
    assert node.found() == {"10.1.0.1": (1, 5), "10.1.0.2": (2, 6)}


def test_a_look_up_that_fails_is_tried_again_and_changes_nothing() -> None:
    node = ThisNode()
    node.routes = {"10.1.0.1": 5, "10.1.0.2": 6}
    node.pod("10.1.0.1")
    node.step()
    node.failing = {"10.1.0.1", "10.1.0.2"}
    node.pod("10.1.0.2")
    node.discovery.note(LinkChanges(is_all=True))
    due_s = node.step()
    assert due_s == RETRY_MINIMUM_S
    assert node.step(due_s) == pytest.approx(3 * RETRY_MINIMUM_S)
    assert node.found() == {"10.1.0.1": (1, 5)}
    node.failing.clear()
    node.step(1.0)
    assert node.found() == {"10.1.0.1": (1, 5), "10.1.0.2": (2, 6)}


def test_a_pod_that_moved_away_while_its_look_up_failed_is_not_waited_for() -> None:
    node = ThisNode()
    node.meet_other("172.18.0.3")
    node.failing = {"10.1.0.1"}
    node.pod("10.1.0.1")
    assert node.step() == RETRY_MINIMUM_S
    node.pod("10.1.0.1", host="172.18.0.3")
    assert node.step(0.01) == RECHECK_S


@pytest.mark.parametrize("cluster", ["north", "south"])
def test_only_a_record_of_our_own_cluster_takes_a_pod_from_this_node_at_once(cluster: str) -> None:
    """What another cluster says of the address ends our record of it; the interface that is here still counts."""
    node = ThisNode()
    node.meet_other("172.18.0.3")
    node.routes["10.1.0.1"] = 5
    node.pod("10.1.0.1")
    node.step()
    if cluster == "south":
        node.forget("10.1.0.1")
    node.pod("10.1.0.1", host="172.18.0.3", cluster=cluster)
    node.step(0.1)
    assert node.found() == ({} if cluster == "north" else {"10.1.0.1": (1, 5)})


def test_a_restarted_agent_keeps_the_ids_that_the_maps_hold() -> None:
    node = ThisNode({"10.1.0.9": 41, "10.1.0.8": 7})
    node.routes = {"10.1.0.9": 1, "10.1.0.1": 2}
    node.pod("10.1.0.9")
    node.pod("10.1.0.1")
    node.step()
    assert node.found() == {"10.1.0.9": (41, 1), "10.1.0.1": (42, 2)}


def test_an_address_that_comes_back_with_another_pod_is_looked_up_at_once() -> None:
    node = ThisNode()
    node.routes["10.1.0.1"] = 5
    node.pod("10.1.0.1")
    node.step()
    node.routes["10.1.0.1"] = 6
    node.pod("10.1.0.1", name="other")
    node.step(0.1)
    assert node.found()["10.1.0.1"][1] == 6


def test_a_pod_whose_record_and_interface_are_gone_is_let_go_and_its_id_is_not_used_at_once() -> None:
    node = ThisNode()
    node.routes = {"10.1.0.1": 5, "10.1.0.2": 6}
    node.pod("10.1.0.1")
    node.step()
    node.forget("10.1.0.1")
    node.remove_link(5)
    node.step(0.1)
    assert node.found() == {}
    node.pod("10.1.0.2")
    node.step(0.2)
    assert node.found() == {"10.1.0.2": (2, 6)}


def test_a_store_that_loses_a_pod_does_not_end_its_endpoint_while_the_interface_is_there() -> None:
    node = ThisNode()
    node.routes["10.1.0.1"] = 5
    node.pod("10.1.0.1")
    node.step()
    before = node.db.endpoints.get("10.1.0.1")
    node.forget("10.1.0.1")
    node.step(0.1)
    del node.routes["10.1.0.1"]
    node.discovery.note(LinkChanges(is_all=True))
    node.step(0.2)
    assert node.db.endpoints.get("10.1.0.1") == before
    node.pod("10.1.0.1")
    node.step(0.3)
    assert node.db.endpoints.get("10.1.0.1") == before
    node.forget("10.1.0.1")
    node.remove_link(5)
    node.step(0.4)
    assert node.found() == {}


def test_a_pod_that_its_own_cluster_says_is_on_another_node_is_no_endpoint_here() -> None:
    node = ThisNode()
    node.routes["10.1.0.1"] = 5
    node.pod("10.1.0.1")
    node.step()
    node.meet_other("172.18.0.3")
    node.pod("10.1.0.1", host="172.18.0.3")
    node.step(0.1)
    assert node.found() == {}


def test_a_restarted_agent_keeps_pods_whose_records_are_missing_while_their_interfaces_are_there() -> None:
    node = ThisNode({"10.1.0.9": 41, "10.1.0.8": 7, "10.1.0.7": 3})
    node.links = {90 + 41}  # without a route
    node.routes = {"10.1.0.8": 97}
    node.step()
    assert node.found() == {"10.1.0.9": (41, 90 + 41), "10.1.0.8": (7, 97)}
    assert {e.identity for e in node.db.endpoints.rows()} == {IDENTITY}


def test_an_address_found_on_another_interface_has_no_rights_until_a_record_says_whose_it_is() -> None:
    """Another pod may have it since the earlier agent ended."""
    node = ThisNode({"10.1.0.1": 7})
    node.routes = {"10.1.0.1": 12}
    node.step()
    (found,) = node.db.endpoints.rows()
    assert (found.ifindex, found.identity) == (12, UNKNOWN)
    node.pod("10.1.0.1")
    node.step()
    (found,) = node.db.endpoints.rows()
    assert (found.ifindex, found.identity) == (12, IDENTITY)
    node.forget("10.1.0.1")
    node.routes = {"10.1.0.1": 13}
    node.discovery.note(LinkChanges(routes=frozenset({"10.1.0.1/32"})))
    node.step()
    (found,) = node.db.endpoints.rows()
    assert (found.ifindex, found.identity, found.pod) == (13, UNKNOWN, "")


def test_an_interface_keeps_its_pod_while_the_route_is_away() -> None:
    node = ThisNode()
    node.routes["10.1.0.1"] = 5
    node.pod("10.1.0.1")
    node.step()
    del node.routes["10.1.0.1"]
    node.discovery.note(LinkChanges(routes=frozenset({"10.1.0.1/32"})))
    node.step(0.1)
    assert node.found() == {"10.1.0.1": (1, 5)}
    node.remove_link(5)
    node.step(0.2)
    assert node.found() == {}
    assert node.discovery.waiting == ("10.1.0.1",)


def test_a_change_during_a_look_up_makes_its_result_void() -> None:
    node = ThisNode()
    node.routes["10.1.0.1"] = 5
    node.pod("10.1.0.1")
    due = node.discovery.begin(0.0)
    seen = [node.see(*wanted.asked) for wanted in due]
    node.routes["10.1.0.1"] = 6
    node.pod("10.1.0.1", name="other")
    later = node.discovery.begin(0.1)
    node.discovery.finish(due, seen, 0.1)
    assert node.found() == {}
    node.discovery.finish(later, [node.see(*wanted.asked) for wanted in later], 0.1)
    assert node.found() == {"10.1.0.1": (1, 6)}


def test_who_waits_behind_a_bridge_is_looked_for_when_its_ports_change_and_a_little_later() -> None:
    """The address may be set after the interface is there; nothing says so."""
    node = ThisNode()
    node.bridges = {"10.1.0.1": 7, "10.1.0.2": 8}
    node.pod("10.1.0.1")
    node.pod("10.1.0.2")
    now_s = 0.0
    for later_s in LOOK_AGAIN_S:
        again_s = node.step(now_s)
        assert again_s == pytest.approx(now_s + later_s)
        now_s = again_s
    assert node.step(now_s) == RECHECK_S
    node.asked.clear()
    node.discovery.note(LinkChanges(links=frozenset({3}), gone=frozenset({4}), bridges=frozenset({8, 9})))
    assert node.step(10.0) == 10.0 + LOOK_AGAIN_S[0]
    assert node.asked == ["10.1.0.2"]
    node.routes["10.1.0.2"] = 5
    assert node.step(10.0 + LOOK_AGAIN_S[0]) == RECHECK_S
    assert node.found() == {"10.1.0.2": (1, 5)}


def test_an_endpoint_says_whether_it_is_a_port_and_keeps_up_with_its_bridge() -> None:
    node = ThisNode()
    node.routes, node.bridges = {"10.1.0.1": 5, "10.1.0.2": 6}, {"10.1.0.1": 7}
    node.pod("10.1.0.1")
    node.pod("10.1.0.2")
    node.step()
    assert {e.address: e.is_bridge_port for e in node.db.endpoints.rows()} == {"10.1.0.1": True, "10.1.0.2": False}
    node.asked.clear()
    node.discovery.note(LinkChanges(links=frozenset({9}), bridges=frozenset({7})))
    node.step(0.1)
    assert node.asked == [], "another port is no business of a pod that is found"
    node.discovery.note(LinkChanges(links=frozenset({7})))
    node.step(0.2)
    assert node.asked == ["10.1.0.1"], "the bridge may have another MAC"


def test_an_interface_stays_its_first_addresss_and_passes_on_when_that_is_gone() -> None:
    node = ThisNode()
    node.routes = {"10.1.0.1": 5, "10.1.0.2": 5}
    node.pod("10.1.0.1")
    node.pod("10.1.0.2")
    node.step()
    assert node.found() == {"10.1.0.1": (1, 5)}
    assert (node.discovery.waiting, node.discovery.second) == ((), (("10.1.0.2", "10.1.0.1"),))
    del node.routes["10.1.0.1"]
    node.links.discard(5)
    node.forget("10.1.0.1")
    assert node.step(0.1) == 0.1, "the other one is due at once"
    node.step(0.1)
    assert {address: ifindex for address, (_, ifindex) in node.found().items()} == {"10.1.0.2": 5}
    assert node.discovery.second == ()


def test_two_pods_that_changed_interfaces_keep_one_each() -> None:
    node = ThisNode()
    node.routes = {"10.1.0.1": 5, "10.1.0.2": 6}
    node.pod("10.1.0.1")
    node.pod("10.1.0.2")
    node.step()
    node.routes = {"10.1.0.1": 6, "10.1.0.2": 5}
    node.discovery.note(LinkChanges(is_all=True))
    node.step(0.1)
    assert node.found() == {"10.1.0.1": (1, 6), "10.1.0.2": (2, 5)}
