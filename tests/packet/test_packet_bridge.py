# SPDX-License-Identifier: Apache-2.0
"""A pod on a port of a bridge: frames of others pass there too, and pods speak to each other without a router between."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent.datapath.layout import Direction, EndpointFlag, PolicyKey
from agent.datapath.reasons import Reason
from tests.packet.datapath_host import run
from tests.packet.packet_bytes import ACK, NODE_MAC, POD_MAC, SYN, UDP, Packet, read
from tests.packet.packet_node import (
    ENDPOINT_ID,
    NEIGHBOUR,
    PASS,
    POD,
    REDIRECT,
    REMOTE_POD,
    SHOT,
    WORLD,
    PacketNode,
)

pytestmark = pytest.mark.root
PORT = EndpointFlag.BRIDGE_PORT
CLOSED = PORT | EndpointFlag.ENFORCE_INGRESS
OTHER_MAC = bytes.fromhex("020000000a63")
NEIGHBOUR_MAC = "02:00:00:00:0a:02"
GATEWAY, HOST_ID = "10.1.1.1", 1


def to_pod(packet: Packet, mac: bytes) -> bytes:
    return mac + packet.frame()[6:]


def test_a_frame_flooded_for_another_pod_goes_no_further_and_is_nothing_of_this_pod(node: PacketNode) -> None:
    node.endpoint(CLOSED)
    flooded = node.receive(to_pod(Packet(NEIGHBOUR, "10.1.1.99"), OTHER_MAC))
    assert (flooded.verdict, flooded.events) == (SHOT, [])
    maps = node.maps
    tracked = [*maps.conntrack_tcp.items(), *maps.conntrack_other.items(), *maps.conntrack_opening.items()]
    assert tracked == []
    assert node.metric(Reason.FLOW_OPENED, Direction.INGRESS) == 0


@pytest.mark.parametrize("mac", [POD_MAC, b"\xff" * 6, bytes.fromhex("01005e000001")], ids=["own", "all", "group"])
def test_what_the_pod_would_take_is_judged(node: PacketNode, mac: bytes) -> None:
    node.endpoint(CLOSED)
    assert node.receive(to_pod(Packet(NEIGHBOUR, POD, UDP), mac)).drop is Reason.POLICY_DENIED


def test_every_frame_is_the_pods_own_on_a_veth_the_node_routes_over(node: PacketNode) -> None:
    assert node.receive(to_pod(Packet(NEIGHBOUR, POD), OTHER_MAC)).verdict == PASS


def test_a_pod_whose_mac_is_not_known_is_judged_by_what_comes(node: PacketNode) -> None:
    node.endpoint(CLOSED, mac="00:00:00:00:00:00")
    assert node.receive(to_pod(Packet(NEIGHBOUR, POD), OTHER_MAC)).drop is Reason.POLICY_DENIED


@pytest.mark.parametrize("ttl", [1, 255])
def test_a_frame_straight_to_another_pod_keeps_its_ttl_and_its_macs(node: PacketNode, ttl: int) -> None:
    node.endpoint(PORT)
    node.endpoint(PORT, address=NEIGHBOUR, mac=NEIGHBOUR_MAC)
    mac = bytes.fromhex(NEIGHBOUR_MAC.replace(":", ""))
    frame = to_pod(Packet(POD, NEIGHBOUR, ttl=ttl), mac)
    assert node.send(frame).verdict == REDIRECT
    assert node.raw(frame) == frame


def test_through_the_gateway_a_packet_is_routed(node: PacketNode) -> None:
    node.endpoint(PORT)
    node.endpoint(PORT, address=NEIGHBOUR, mac=NEIGHBOUR_MAC)
    frame = node.raw(to_pod(Packet(POD, NEIGHBOUR, ttl=9), NODE_MAC))
    assert frame[:12] == bytes.fromhex(NEIGHBOUR_MAC.replace(":", "")) + NODE_MAC
    assert read(frame).ttl == 8


def test_a_direct_frame_is_judged_by_the_receivers_policy_and_by_the_senders(node: PacketNode) -> None:
    node.endpoint(PORT)
    node.endpoint(CLOSED, address=NEIGHBOUR, mac=NEIGHBOUR_MAC)
    frame = to_pod(Packet(POD, NEIGHBOUR), bytes.fromhex(NEIGHBOUR_MAC.replace(":", "")))
    assert node.send(frame).drop is Reason.POLICY_DENIED
    node.endpoint(PORT | EndpointFlag.ENFORCE_EGRESS, revision=2)
    node.endpoint(PORT, revision=2, address=NEIGHBOUR, mac=NEIGHBOUR_MAC)
    assert node.send(frame).drop is Reason.POLICY_DENIED


def test_a_frame_to_a_remote_pod_takes_the_tunnel_whatever_its_mac(node: PacketNode) -> None:
    node.endpoint(PORT)
    assert node.send(to_pod(Packet(POD, REMOTE_POD), OTHER_MAC)).verdict == REDIRECT
    assert node.metric(Reason.TO_OVERLAY, Direction.EGRESS) == 1


@pytest.fixture
def gateway(node: PacketNode) -> Iterator[PacketNode]:
    """The node is the pods' gateway with an address that no record lists, within the network of its pods."""
    node.ipcache("10.1.1.0/24", 0, cluster_id=1)
    run("ip", "address", "add", f"{GATEWAY}/32", "dev", "lo")
    try:
        yield node
    finally:
        run("ip", "address", "del", f"{GATEWAY}/32", "dev", "lo")


def test_the_node_reaches_its_pods_by_policy_also_from_its_gateway_address(gateway: PacketNode) -> None:
    gateway.endpoint(CLOSED)
    gateway.policy(PolicyKey(ENDPOINT_ID, Direction.INGRESS, HOST_ID))
    assert gateway.receive(to_pod(Packet(GATEWAY, POD), POD_MAC)).verdict == PASS
    assert gateway.receive(to_pod(Packet(WORLD, POD), POD_MAC)).drop is Reason.POLICY_DENIED
    assert gateway.receive(to_pod(Packet("10.1.1.2", POD), POD_MAC)).drop is Reason.UNKNOWN_IDENTITY


def test_an_answer_through_the_bridge_belongs_to_its_connection(node: PacketNode) -> None:
    node.endpoint(CLOSED)
    assert node.send(Packet(POD, WORLD)).verdict == PASS
    answer = Packet(WORLD, POD, source_port=80, destination_port=40000, flags=SYN | ACK)
    assert node.receive(to_pod(answer, POD_MAC)).verdict == PASS
