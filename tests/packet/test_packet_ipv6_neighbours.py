# SPDX-License-Identifier: Apache-2.0
"""Neighbour discovery of pods: it passes whatever policies say, and no pod says anything about another's address."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest

from agent.datapath.layout import EndpointFlag
from agent.datapath.reasons import Reason
from tests.packet.packet_bytes import UDP
from tests.packet.packet_bytes6 import ADVERTISEMENT, ICMPV6, SOLICITATION, Packet6, discovery, fragment6
from tests.packet.packet_node import NEIGHBOUR6, NODE6, PASS, POD6, REMOTE_POD6, WORLD6, PacketNode

pytestmark = pytest.mark.root
BOTH = EndpointFlag.ENFORCE_EGRESS | EndpointFlag.ENFORCE_INGRESS
OWN_LINK, OTHER_LINK, ROUTERS, NODES = "fe80::ff:fe00:a01", "fe80::ff:fe00:a02", "ff02::2", "ff02::1"
OTHER_MAC = bytes.fromhex("020000000a02")
ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT, REDIRECT = 133, 134, 137


def asked(address: str) -> str:
    """The group that whoever has the address listens to."""
    return str(
        ipaddress.IPv6Address(
            int(ipaddress.IPv6Address("ff02::1:ff00:0")) | int(ipaddress.IPv6Address(address)) & 0xFFFFFF
        )
    )


FINE = {
    "asks for its gateway": discovery(POD6, asked(NODE6), SOLICITATION, NODE6, option=1),
    "asks with its address of the link": discovery(OWN_LINK, asked(OTHER_LINK), SOLICITATION, OTHER_LINK, option=1),
    "asks whether its address is taken": discovery("::", asked(POD6), SOLICITATION, POD6),
    "asks whether its address of the link is taken": discovery("::", asked(OWN_LINK), SOLICITATION, OWN_LINK),
    "says where it is": discovery(POD6, NODE6, ADVERTISEMENT, POD6, option=2),
    "says where its address of the link is": discovery(OWN_LINK, NODES, ADVERTISEMENT, OWN_LINK, option=2),
    "answers without its MAC": discovery(POD6, NODE6, ADVERTISEMENT, POD6),
    "asks for routers": discovery(OWN_LINK, ROUTERS, ROUTER_SOLICITATION, option=1),
    "asks for routers before it has an address": discovery("::", ROUTERS, ROUTER_SOLICITATION),
    "joins a group": Packet6(OWN_LINK, "ff02::16", ICMPV6, 143 << 8, 0, ttl=1, extensions=((0, bytes([0, 5, 2, 0, 0, 1, 0])),)),
}  # fmt: skip

FORGED = {
    "answers for another": (discovery(POD6, NODE6, ADVERTISEMENT, NEIGHBOUR6, option=2), Reason.INVALID_SOURCE_IP),
    "answers for the node": (discovery(POD6, NODES, ADVERTISEMENT, NODE6, option=2), Reason.INVALID_SOURCE_IP),
    "speaks as another": (discovery(NEIGHBOUR6, NODE6, SOLICITATION, NODE6, option=1), Reason.INVALID_SOURCE_IP),
    "says that it is at another's MAC": (
        discovery(POD6, NODE6, ADVERTISEMENT, POD6, OTHER_MAC, 2), Reason.INVALID_SOURCE_MAC,
    ),
    "asks from another's MAC": (discovery(POD6, NODE6, SOLICITATION, NODE6, OTHER_MAC, 1), Reason.INVALID_SOURCE_MAC),
    "objects to another's address": (
        discovery("::", asked(NEIGHBOUR6), SOLICITATION, NEIGHBOUR6), Reason.INVALID_SOURCE_IP,
    ),
    "answers from no address": (discovery("::", NODES, ADVERTISEMENT, POD6, option=2), Reason.INVALID_PACKET),
    "is a router": (discovery(OWN_LINK, NODES, ROUTER_ADVERTISEMENT, option=1), Reason.INVALID_SOURCE_IP),
    "knows a better way": (discovery(OWN_LINK, NODE6, REDIRECT, NODE6, option=2), Reason.INVALID_SOURCE_IP),
    "asks who is in a group": (Packet6(OWN_LINK, NODES, ICMPV6, 130 << 8, 0, ttl=1), Reason.INVALID_SOURCE_IP),
    "was routed": (discovery(POD6, NODE6, ADVERTISEMENT, POD6, option=2, ttl=254), Reason.INVALID_PACKET),
    "ends within an option": (
        replace(discovery(POD6, NODE6, ADVERTISEMENT, POD6, option=2), payload=bytes([14, 2]) + bytes(6)), Reason.INVALID_PACKET,
    ),
    "has an option of no length": (
        replace(discovery(POD6, NODE6, ADVERTISEMENT, POD6), payload=bytes(8)), Reason.INVALID_PACKET,
    ),
    "has a MAC in a second option": (
        replace(discovery(POD6, NODE6, ADVERTISEMENT, POD6), payload=bytes([14, 1]) + bytes(6) + bytes([2, 1]) + OTHER_MAC),
        Reason.INVALID_SOURCE_MAC,
    ),
    "asks for a neighbour far away": (discovery(POD6, WORLD6, SOLICITATION, WORLD6, option=1), Reason.UNROUTABLE),
    "answers a pod of another cluster": (discovery(POD6, REMOTE_POD6, ADVERTISEMENT, POD6, option=2), Reason.UNROUTABLE),
    "asks for routers of a whole site": (discovery(POD6, "ff05::2", ROUTER_SOLICITATION, option=1), Reason.UNROUTABLE),
    "joins a group at somebody far away": (Packet6(POD6, WORLD6, ICMPV6, 143 << 8, 0), Reason.INVALID_PACKET),
    "joins a group at a neighbour": (Packet6(POD6, NEIGHBOUR6, ICMPV6, 143 << 8, 0, ttl=1), Reason.INVALID_PACKET),
    "comes in fragments": (
        replace(discovery(POD6, NODE6, ADVERTISEMENT, POD6, option=2), extensions=(fragment6(1, 0, more=True),)),
        Reason.INVALID_PACKET,
    ),
}  # fmt: skip


@pytest.mark.parametrize("packet", FINE.values(), ids=FINE)
@pytest.mark.parametrize("flags", [BOTH, BOTH | EndpointFlag.BRIDGE_PORT])
def test_a_pod_finds_and_is_found_under_any_policy(node6: PacketNode, flags: int, packet: Packet6) -> None:
    node6.endpoint(flags=flags)
    assert node6.send(packet.frame()).verdict == PASS


@pytest.mark.parametrize(("packet", "reason"), FORGED.values(), ids=FORGED)
@pytest.mark.parametrize("flags", [0, BOTH])
def test_a_pod_says_nothing_about_others(node6: PacketNode, flags: int, packet: Packet6, reason: Reason) -> None:
    node6.endpoint(flags=flags)
    assert node6.send(packet.frame()).drop is reason


def test_on_a_bridge_an_address_of_the_link_is_made_of_the_pods_mac(node6: PacketNode) -> None:
    claim = discovery(OTHER_LINK, NODES, ADVERTISEMENT, OTHER_LINK, option=2)
    assert node6.send(claim).verdict == PASS, "nobody but the node reads it"
    node6.endpoint(flags=EndpointFlag.BRIDGE_PORT)
    assert node6.send(claim).drop is Reason.INVALID_SOURCE_IP


@pytest.mark.parametrize("kind", [SOLICITATION, ADVERTISEMENT, ROUTER_ADVERTISEMENT])
def test_discovery_of_the_node_comes_in_under_any_policy(node6: PacketNode, kind: int) -> None:
    node6.endpoint(flags=BOTH)
    assert node6.receive(discovery(OTHER_LINK, OWN_LINK, kind, POD6, option=1)).verdict == PASS


@pytest.mark.parametrize(
    "packet",
    [
        discovery(WORLD6, POD6, SOLICITATION, POD6, ttl=254),
        discovery(NEIGHBOUR6, POD6, ADVERTISEMENT, NEIGHBOUR6, ttl=64),
        Packet6(WORLD6, POD6, ICMPV6, 143 << 8, 0, ttl=63),
        replace(discovery(OTHER_LINK, POD6, SOLICITATION, POD6), extensions=(fragment6(1, 0, more=True),)),
    ],
)
def test_what_a_router_passed_on_is_no_discovery(node6: PacketNode, packet: Packet6) -> None:
    """It would pass whatever policies say, from anywhere."""
    node6.endpoint(flags=BOTH)
    assert node6.receive(packet).drop is Reason.INVALID_PACKET


@pytest.mark.parametrize(("source", "destination"), [(OWN_LINK, OTHER_LINK), (POD6, OTHER_LINK), (OWN_LINK, NODES)])
def test_other_packets_of_the_link_are_nobodys_by_policy(node6: PacketNode, source: str, destination: str) -> None:
    """No record says whose such an address is: who enforces drops it, whatever is allowed."""
    packet = Packet6(source, destination, UDP)
    assert node6.send(packet).verdict == PASS
    assert node6.receive(packet.reverse if destination != NODES else packet).verdict == PASS
    node6.endpoint(flags=BOTH)
    assert node6.send(packet).drop is Reason.UNSUPPORTED_L3
    assert node6.receive(packet).drop is Reason.UNSUPPORTED_L3


def test_neighbour_discovery_does_not_cross_the_overlay(node6: PacketNode) -> None:
    assert (
        node6.overlay(discovery(OTHER_LINK, NODES, ADVERTISEMENT, REMOTE_POD6, option=2)).drop is Reason.FOREIGN_SOURCE
    )
