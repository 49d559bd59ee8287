# SPDX-License-Identifier: Apache-2.0
"""Pods' addresses of IPv6: whose they are, that programs find the pod by them, and that peers hear of them."""

from __future__ import annotations

import pytest

from agent.confirmation.confirmed_pods import ConfirmedPods
from agent.datapath.layout import AddressKey, IfindexKey
from agent.datapath.memory import MemoryMaps, memory_maps
from agent.datapath.pod_interfaces import EndpointInterface, LinkSighting
from agent.datapath.rtnetlink import LinkChanges
from agent.endpoints.discovery import EndpointDiscovery
from agent.endpoints.ipv6_addresses import Ipv6Addresses
from agent.ipcache.writer import PrefixWriter
from agent.policy.comparison import compare_endpoints
from agent.policy.ops import EndpointTarget
from agent.tables import AgentDB, ClaimOrigin, Endpoint, EndpointVerdicts, Prefix
from meshmodel.names import ClusterId, ClusterName
from meshpolicy import EndpointPolicy
from meshpolicy.endpoint_policy import DirectionPolicy
from tests.property.agent.map_targets import Interfaces

NORTH, NODE_IP, IDENTITY = ClusterName("north"), "172.18.0.2", 65_537
MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")
POD, POD6, OTHER6 = "10.1.0.5", "fd00:1::5", "fd00:1::6"


class ThisNode:
    """One pod's interface after another, found for any address of IPv4."""

    def __init__(self, *, follows_ipv6: bool = True) -> None:
        self.db = AgentDB(NORTH, ClusterId(1), "n1", NODE_IP)
        self.prefixes = PrefixWriter(self.db)
        self.discovery = EndpointDiscovery(self.db, follows_ipv6=follows_ipv6)
        self.links: dict[str, int] = {POD: 12, "10.1.0.6": 13}

    def say(self, *addresses: str, name: str = "p", host: str = NODE_IP) -> None:
        """Records of a pod's addresses."""
        with self.db.write():
            for address in addresses:
                prefix = f"{address}/{128 if ':' in address else 32}"
                row = Prefix(prefix, IDENTITY, "", NORTH, ClusterId(1), ClaimOrigin.POD, host, "default", name)
                self.prefixes.set_pod(row)
        self.step()

    def unsay(self, *addresses: str) -> None:
        with self.db.write():
            for address in addresses:
                self.prefixes.delete_pod(NORTH, f"{address}/{128 if ':' in address else 32}")
        self.step()

    def step(self) -> None:
        due = self.discovery.begin(0.0)
        seen = []
        for wanted in due:
            ifindex = self.links.get(wanted.address)
            seen.append(LinkSighting(EndpointInterface(ifindex, *MACS, 0) if ifindex else None))
        self.discovery.finish(due, seen, 0.0)

    def found(self) -> dict[str, tuple[str, ...]]:
        return {e.address: e.ipv6 for e in self.db.endpoints.rows()}


@pytest.mark.parametrize("order", [(POD, POD6, OTHER6), (OTHER6, POD6, POD), (POD6, POD, OTHER6)])
def test_an_endpoint_has_the_addresses_that_records_give_its_pod_in_any_order(order: tuple[str, ...]) -> None:
    node = ThisNode()
    for address in order:
        node.say(address)
    assert node.found() == {POD: (POD6, OTHER6)}
    node.unsay(OTHER6)
    assert node.found() == {POD: (POD6,)}


def test_an_address_that_another_pod_has_now_is_not_the_first_ones_any_more() -> None:
    node = ThisNode()
    node.say(POD, POD6, name="a")
    node.say("10.1.0.6", name="b")
    node.say(POD6, name="b")
    assert node.found() == {POD: (), "10.1.0.6": (POD6,)}
    node.say(POD6, name="b", host="172.18.0.3")
    assert node.found() == {POD: (), "10.1.0.6": ()}


def test_nothing_of_ipv6_is_followed_where_it_is_off() -> None:
    node = ThisNode(follows_ipv6=False)
    node.say(POD, POD6)
    assert node.found() == {POD: ()}


def test_a_pod_without_an_address_of_ipv4_is_named() -> None:
    node = ThisNode()
    node.say(POD6, name="six")
    assert node.discovery.of_ipv6_alone == (("default", "six"),)
    assert node.found() == {}
    node.say(POD, name="six")
    assert node.discovery.of_ipv6_alone == ()


def test_a_store_that_loses_a_pod_takes_no_address_off_it() -> None:
    node = ThisNode()
    node.say(POD, POD6)
    node.unsay(POD, POD6)
    assert node.found() == {POD: (POD6,)}
    node.links[POD] = 14  # whose interface this is, nobody says
    node.discovery.note(LinkChanges(is_all=True))
    node.step()
    assert node.found() == {POD: ()}


def test_a_restarted_agent_keeps_addresses_until_the_first_listing_says_otherwise() -> None:
    before, node = ThisNode(), ThisNode()
    before.say(POD, POD6, OTHER6)
    maps = memory_maps()
    EndpointTarget(maps, Interfaces()).update(_verdicts(before))
    values = [value for key, value in maps.endpoints_by_address.items() if key.address == value.address]
    listed = node.db.prefixes.expect("records")
    node.discovery.restore(values, {POD: [OTHER6, POD6]})
    node.say(POD, POD6)
    assert node.found() == {POD: (POD6, OTHER6)}
    listed()
    node.step()
    assert node.found() == {POD: (POD6,)}


def test_an_address_that_maps_cannot_tell_from_one_of_ipv4_is_nobodys() -> None:
    addresses = Ipv6Addresses()
    assert not addresses.put("a01:5::", ("default", "p"))
    assert addresses.of("default", "p") == frozenset()


def test_peers_hear_of_each_address_once_the_pod_is_enforced_under_it() -> None:
    node, pods = ThisNode(), ConfirmedPods()
    node.say(POD, POD6)
    for row in node.db.prefixes.rows():
        pods.hear(row, "u1")
    target = EndpointTarget(memory_maps(), Interfaces())
    assert not pods.step(node.db.endpoints.rows(), target.enforces)
    target.update(_verdicts(node))
    assert pods.step(node.db.endpoints.rows(), target.enforces)
    assert pods.confirmed == {POD: "u1", POD6: "u1"}
    node.say(OTHER6)
    (row,) = node.db.endpoints.rows()
    assert not target.enforces(row), "the maps do not lead from that one to the pod"


def _verdicts(node: ThisNode) -> list[EndpointVerdicts]:
    return [EndpointVerdicts(row, EndpointPolicy()) for row in node.db.endpoints.rows()]


def _held(maps: MemoryMaps) -> dict[str, int]:
    return {key.address: value.endpoint_id for key, value in maps.endpoints_by_address.items()}


def _endpoint(number: int, *ipv6: str) -> EndpointVerdicts:
    row = Endpoint(f"10.1.0.{number}", number, 10 + number, *MACS, IDENTITY, "default", f"p{number}", ipv6=ipv6)
    return EndpointVerdicts(row, EndpointPolicy())


def test_the_maps_lead_from_every_address_to_the_endpoint_and_from_no_former_one() -> None:
    maps = memory_maps()
    target = EndpointTarget(maps, Interfaces())
    target.update([_endpoint(5, POD6, OTHER6), _endpoint(6)])
    assert _held(maps) == {POD: 5, POD6: 5, OTHER6: 5, "10.1.0.6": 6}
    assert maps.endpoints_by_ifindex.get(IfindexKey(15)) == maps.endpoints_by_address.get(AddressKey(POD6))
    target.update([_endpoint(6, OTHER6)])
    target.update([_endpoint(5, POD6)])
    assert _held(maps) == {POD: 5, POD6: 5, "10.1.0.6": 6, OTHER6: 6}, "who took an address keeps it"
    target.delete([_endpoint(6, OTHER6)])
    assert _held(maps) == {POD: 5, POD6: 5}


def test_whose_address_was_taken_does_not_take_it_back_when_its_policy_goes() -> None:
    maps, shut = memory_maps(), EndpointPolicy(DirectionPolicy(True, {}), DirectionPolicy(True, {}))
    target = EndpointTarget(maps, Interfaces())
    target.update([EndpointVerdicts(_endpoint(5, POD6).endpoint, shut)])
    target.update([_endpoint(6, POD6)])
    target.update([_endpoint(5)])
    assert _held(maps) == {POD: 5, "10.1.0.6": 6, POD6: 6}


def test_an_address_that_somebody_else_gave_up_is_found_missing_at_the_next_comparison() -> None:
    maps, interfaces, rows = memory_maps(), Interfaces(), {POD: _endpoint(5, POD6), "10.1.0.6": _endpoint(6)}
    target = EndpointTarget(maps, interfaces)
    target.update([rows[POD], _endpoint(6, POD6), rows["10.1.0.6"]])
    assert not target.enforces(rows[POD].endpoint)
    assert [lost for step in target.prune(rows) for lost in step] == [POD]
    target.update([rows[POD]])
    assert target.enforces(rows[POD].endpoint)
    assert _held(maps) == {POD: 5, POD6: 5, "10.1.0.6": 6}


def test_the_next_agent_takes_over_all_addresses_and_prunes_those_that_nobody_wants() -> None:
    maps, interfaces = memory_maps(), Interfaces()
    EndpointTarget(maps, interfaces).update([_endpoint(5, POD6, OTHER6), _endpoint(6, "fd00:1::7")])
    again = EndpointTarget(maps, interfaces)
    again.restore()
    rows = {POD: _endpoint(5, POD6)}
    assert [found for step in again.prune(rows) for found in step] == [POD], "its interface is attached anew"
    assert _held(maps) == {POD: 5, POD6: 5, OTHER6: 5}
    again.update([*rows.values()])
    assert _held(maps) == {POD: 5, POD6: 5}
    assert not compare_endpoints(maps, interfaces, rows.values(), 100)


def test_an_address_that_is_lost_from_the_map_is_found_missing_and_written_again() -> None:
    maps, interfaces, rows = memory_maps(), Interfaces(), {POD: _endpoint(5, POD6)}
    target = EndpointTarget(maps, interfaces)
    target.update([*rows.values()])
    maps.endpoints_by_address.delete([AddressKey(POD6)])
    (found,) = compare_endpoints(maps, interfaces, rows.values(), 100)
    assert POD6 in str(found)
    assert [lost for step in target.prune(rows) for lost in step] == [POD]
    target.update([*rows.values()])
    assert not compare_endpoints(maps, interfaces, rows.values(), 100)


@pytest.mark.parametrize(("full", "room"), [("mesh_ep_address", 2), ("mesh_ep_address", 1), ("mesh_ep_ifindex", 0)])
def test_a_pod_for_which_there_is_no_room_is_closed_and_not_open(full: str, room: int) -> None:
    node, interfaces = ThisNode(), Interfaces()
    node.say(POD, POD6, OTHER6)
    (row,) = node.db.endpoints.rows()
    maps = memory_maps()
    limited = maps.endpoints_by_address if full == "mesh_ep_address" else maps.endpoints_by_ifindex
    limited.set_room(room)
    target = EndpointTarget(maps, interfaces)
    assert target.update(_verdicts(node)).keys() == {POD}
    assert interfaces.attached() == {row.ifindex}, "programs that do not know whom they judge drop everything"
    assert not target.enforces(row)
    assert "full" in target.failures[POD]
    limited.set_room(8)
    assert not target.update(_verdicts(node))
    assert target.enforces(row)
