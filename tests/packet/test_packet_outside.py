# SPDX-License-Identifier: Apache-2.0
"""Connections from outside to services with backends of other clusters, packet by packet: node ports and balancer addresses."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import replace

import pytest

from agent.datapath.flow_layout import HeartbeatKey, HeartbeatValue
from agent.datapath.layout import BackendKey, Direction, MemberKey, ServiceFlag
from agent.datapath.nat_layout import NatDirection, NatKey
from agent.datapath.nat_ports import PortRange, free_ports
from agent.datapath.reasons import Reason
from tests.packet.packet_bytes import ACK, FIN, ICMP, RST, SYN, TCP, UDP, Packet, icmp_error, read_quote
from tests.packet.packet_node import (
    NEIGHBOUR,
    NODE,
    PASS,
    POD,
    REDIRECT,
    REMOTE_NODE,
    REMOTE_POD,
    VIP,
    WORLD,
    Outcome,
    PacketNode,
)

pytestmark = pytest.mark.root
OUTSIDE = int(ServiceFlag.OF_NODE | ServiceFlag.OF_OUTSIDERS)
REMOTE, LOCAL = (2, REMOTE_POD, 9090), (1, NEIGHBOUR, 8080)
EVERYWHERE = "0.0.0.0"
NODE_ID = 6
LEFT = 1
"""What the programs note of connections that they leave to the stack."""


@pytest.fixture(scope="module")
def ports(packet_node: PacketNode) -> PortRange:
    """Those of the node."""
    return free_ports()


def ask(node: PacketNode, protocol: int = TCP, address: str = VIP, **changes: int) -> Outcome:
    return node.outside(replace(Packet(WORLD, address, protocol), **changes))


def answer(node: PacketNode, led: Packet, flags: int = SYN | ACK) -> Outcome:
    return node.overlay(replace(led.reverse, flags=flags if led.protocol == TCP else SYN))


@pytest.mark.parametrize("protocol", [TCP, UDP])
@pytest.mark.parametrize("address", [VIP, NODE], ids=["balancer", "node port"])
def test_a_connection_goes_on_from_the_node_and_is_answered_from_where_it_was_made_to(
    node: PacketNode, ports: PortRange, protocol: int, address: str
) -> None:
    node.service([REMOTE], protocol, address=EVERYWHERE if address == NODE else VIP, reach=OUTSIDE)
    before = node.metric(Reason.FLOW_OF_OUTSIDERS, Direction.INGRESS)
    out = ask(node, protocol, address)
    assert out.verdict == REDIRECT
    led = out.packet
    assert (led.source, led.destination, led.destination_port, led.ttl) == (NODE, REMOTE_POD, 9090, 63)
    assert ports.first <= led.source_port < ports.first + ports.count
    back = answer(node, led)
    held = dict(node.maps.nat.items())
    key = NatKey(WORLD, address, 40000, 80, protocol)
    assert held[key][:6] == (2, held[key].octets, NODE, REMOTE_POD, led.source_port, 9090)
    assert held[key].flags == 0
    reply = NatKey(REMOTE_POD, NODE, 9090, led.source_port, protocol, NatDirection.REPLY)
    assert held[reply][2:6] == (address, WORLD, 80, 40000)
    assert len(held) == 2
    assert back.verdict == REDIRECT
    got = back.packet
    assert (got.source, got.source_port, got.destination, got.destination_port) == (address, 80, WORLD, 40000)
    again = ask(node, protocol, address, flags=ACK)
    assert (again.packet.source_port, again.packet.destination) == (led.source_port, REMOTE_POD)
    assert node.metric(Reason.FLOW_OF_OUTSIDERS, Direction.INGRESS) == before + 1


def test_a_backend_of_the_own_cluster_is_left_to_the_stack_and_so_is_all_of_its_connection(node: PacketNode) -> None:
    node.service([LOCAL, REMOTE], reach=OUTSIDE)
    seen: Counter[int] = Counter()
    for port in range(1000, 1040):
        first = ask(node, source_port=port)
        assert first.verdict != PASS or first.packet == Packet(WORLD, VIP, source_port=port)
        for _ in range(4):  # retries of the first packet, and what follows
            assert ask(node, source_port=port).verdict == first.verdict
        assert ask(node, source_port=port, flags=ACK).verdict == first.verdict
        entry = node.maps.nat.get(NatKey(WORLD, VIP, port, 80, TCP))
        assert entry is not None
        assert bool(entry.flags & LEFT) is (first.verdict == PASS)
        seen[first.verdict] += 1
    assert set(seen) == {PASS, REDIRECT}


def test_datagrams_stay_where_their_first_one_went(node: PacketNode) -> None:
    node.service([LOCAL, REMOTE], UDP, reach=OUTSIDE)
    for port in range(1000, 1020):
        assert len({ask(node, UDP, source_port=port).verdict for _ in range(6)}) == 1


@pytest.mark.parametrize("reach", [0, int(ServiceFlag.OF_NODE)], ids=["not ours", "local traffic policy"])
def test_what_outsiders_are_not_led_to_is_left_to_the_stack(node: PacketNode, reach: int) -> None:
    node.service([REMOTE], reach=reach)
    node.service([REMOTE], address=EVERYWHERE, reach=reach)
    for address in (VIP, NODE):
        assert ask(node, address=address).verdict == PASS


@pytest.mark.parametrize(
    "packet",
    [
        Packet(WORLD, VIP, destination_port=81),
        Packet(WORLD, VIP, flags=ACK),
        Packet(WORLD, VIP, ICMP, 8 << 8),
        Packet(WORLD, POD),
        Packet(WORLD, "203.0.113.9"),
        Packet(POD, VIP),
        Packet(NODE, VIP),
    ],
    ids=["port", "midstream", "ping", "to a pod", "passing on", "from a pod's address", "from the node's address"],
)
def test_what_opens_no_connection_to_a_service_is_left_to_the_stack(node: PacketNode, packet: Packet) -> None:
    node.service([REMOTE], reach=OUTSIDE)
    node.service([REMOTE], address=EVERYWHERE, reach=OUTSIDE)
    out = node.outside(packet)
    assert (out.verdict, out.packet) == (PASS, packet)


def test_a_service_without_backends_is_refused_by_the_stack(node: PacketNode) -> None:
    node.service([], reach=OUTSIDE)
    assert ask(node).verdict == PASS


def test_while_no_agent_attends_new_connections_are_left_and_open_ones_go_on(node: PacketNode) -> None:
    node.service([REMOTE], reach=OUTSIDE)
    led = ask(node).packet
    node.maps.heartbeat.update([(HeartbeatKey(0), HeartbeatValue(1))])
    assert ask(node, source_port=40001).verdict == PASS
    assert answer(node, led).verdict == REDIRECT
    assert ask(node, flags=ACK).packet.source_port == led.source_port


def test_clients_with_the_same_port_do_not_share_one(node: PacketNode) -> None:
    node.service([REMOTE], reach=OUTSIDE)
    clients = [f"198.51.100.{n}" for n in range(1, 120)]
    led = {c: node.outside(Packet(c, VIP)).packet for c in clients}
    assert len({p.source_port for p in led.values()}) == len(clients)
    for client, packet in led.items():
        assert answer(node, packet).packet.destination == client


def test_a_port_from_which_the_node_speaks_to_the_backend_is_passed_over(node: PacketNode) -> None:
    node.service([REMOTE], reach=OUTSIDE)
    port = ask(node).packet.source_port
    node.reset()
    node.service([REMOTE], reach=OUTSIDE)
    assert ask(node).packet.source_port == port
    node.reset()
    node.service([REMOTE], reach=OUTSIDE)
    node.leave(Packet(NODE, REMOTE_POD, source_port=port, destination_port=9090))
    assert ask(node).packet.source_port != port


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_with_every_tried_port_in_use_the_client_is_refused_and_that_is_counted(
    node: PacketNode, ports: PortRange, protocol: int
) -> None:
    node.service([REMOTE], protocol, reach=OUTSIDE)
    ask(node, protocol)
    (reply,) = [(key, value) for key, value in node.nat.entries() if key[37]]
    for start in range(ports.first, ports.first + ports.count, 4096):
        numbers = range(start, min(start + 4096, ports.first + ports.count))
        keys = [reply[0][:34] + struct.pack("!H", n) + reply[0][36:] for n in numbers]
        assert node.nat.update(keys, [reply[1]] * len(keys))[0] == 0
    before = node.metric(Reason.NAT_FULL, Direction.INGRESS)
    out = ask(node, protocol, source_port=40001)
    assert out.answered is Reason.NAT_FULL
    assert (out.packet.source, out.packet.destination) == (VIP, WORLD)
    if protocol == TCP:
        assert out.packet.flags == RST | ACK
    else:
        assert (out.packet.protocol, out.packet.source_port) == (ICMP, 3 << 8 | 3)
    assert node.metric(Reason.NAT_FULL, Direction.INGRESS) == before + 1


def test_an_answer_to_nobody_and_a_connection_to_the_ports_do_not_come_in(node: PacketNode) -> None:
    node.service([REMOTE], reach=OUTSIDE)
    led = ask(node).packet
    assert node.overlay(replace(led.reverse, source_port=9091)).drop is Reason.UNROUTABLE
    assert answer(node, led, flags=SYN).drop is Reason.UNROUTABLE


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_a_backend_that_is_gone_ends_tcp_and_moves_datagrams(node: PacketNode, protocol: int) -> None:
    node.service([REMOTE], protocol, reach=OUTSIDE)
    ask(node, protocol)
    other = "10.2.1.11"
    node.ipcache(f"{other}/32", (2 << 16) + 6, REMOTE_NODE, 2)
    node.service([(3, other, 9090)], protocol, reach=OUTSIDE)
    node.maps.backends.delete([BackendKey(2)])
    node.maps.members.delete([MemberKey(7, 2)])
    node.maps.ipcache.delete([k for k, _ in node.maps.ipcache.items() if k.prefix == f"{REMOTE_POD}/32"])
    out = ask(node, protocol, flags=ACK)
    if protocol == TCP:
        assert out.answered is Reason.NO_BACKEND
        assert out.packet.flags & RST
    else:
        assert out.packet.destination == other


def test_the_ports_of_a_connection_that_is_over_open_another_one(node: PacketNode) -> None:
    node.service([REMOTE], reach=OUTSIDE)
    led = ask(node).packet
    answer(node, led)
    ask(node, flags=FIN | ACK)
    answer(node, led, FIN | ACK)
    before = node.metric(Reason.FLOW_OF_OUTSIDERS, Direction.INGRESS)
    assert ask(node).verdict == REDIRECT
    assert node.metric(Reason.FLOW_OF_OUTSIDERS, Direction.INGRESS) == before + 1


def test_session_affinity_keeps_a_client_with_its_backend(node: PacketNode) -> None:
    other = "10.2.1.11"
    node.ipcache(f"{other}/32", (2 << 16) + 6, REMOTE_NODE, 2)
    node.service([REMOTE, (3, other, 9090)], affinity_s=60, reach=OUTSIDE)
    assert len({ask(node, source_port=port).packet.destination for port in range(1000, 1020)}) == 1


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_an_error_about_what_a_client_sent_comes_from_the_service_and_quotes_what_it_sent(
    node: PacketNode, protocol: int
) -> None:
    node.service([REMOTE], protocol, reach=OUTSIDE)
    led = ask(node, protocol).packet
    out = node.overlay(icmp_error(REMOTE_NODE, led), NODE_ID)
    assert out.verdict == REDIRECT
    assert (out.packet.source, out.packet.destination) == (VIP, WORLD)
    assert read_quote(out.packet) == read_quote(icmp_error(VIP, Packet(WORLD, VIP, protocol)))


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_an_error_about_an_answer_reaches_the_backend_and_quotes_what_it_sent(node: PacketNode, protocol: int) -> None:
    node.service([REMOTE], protocol, reach=OUTSIDE)
    led = ask(node, protocol).packet
    back = answer(node, led)
    out = node.outside(icmp_error("203.0.113.1", back.packet))
    assert out.verdict == REDIRECT
    assert (out.packet.source, out.packet.destination) == (NODE, REMOTE_POD)
    assert read_quote(out.packet) == read_quote(icmp_error(NODE, led.reverse))


def test_an_error_about_anything_else_is_the_stacks(node: PacketNode) -> None:
    node.service([REMOTE], reach=OUTSIDE)
    stray = icmp_error("203.0.113.1", Packet(VIP, WORLD, source_port=80, destination_port=40000))
    assert node.outside(stray).verdict == PASS


def test_a_packet_that_does_not_fit_the_overlay_is_answered_to_the_client(node: PacketNode) -> None:
    node.service([REMOTE], UDP, reach=OUTSIDE)
    big = Packet(WORLD, VIP, UDP, payload=bytes(1440))
    out = node.outside(big)
    assert out.answered is Reason.FRAGMENTATION_NEEDED
    assert (out.packet.source, out.packet.destination, out.packet.source_port) == (VIP, WORLD, 3 << 8 | 4)
    assert node.outside(replace(big, fragment=0)).verdict == REDIRECT


def test_a_packet_whose_time_is_over_is_answered_to_the_client(node: PacketNode) -> None:
    node.service([REMOTE], reach=OUTSIDE)
    out = ask(node, ttl=1)
    assert out.answered is Reason.TTL_EXCEEDED
    assert (out.packet.destination, out.packet.source_port) == (WORLD, 11 << 8)


def test_fragments_follow_their_first_one_both_ways(node: PacketNode) -> None:
    node.service([REMOTE], UDP, reach=OUTSIDE)
    first = Packet(WORLD, VIP, UDP, payload=bytes(64), fragment=0x2000, identification=77)
    led = node.outside(first).packet
    later = node.outside(replace(first, fragment=9))
    assert (later.verdict, later.packet.source, later.packet.destination) == (REDIRECT, NODE, REMOTE_POD)
    back = replace(led.reverse, flags=SYN, fragment=0x2000, identification=78)
    assert node.overlay(back).packet.destination == WORLD
    last = node.overlay(replace(back, fragment=9))
    assert (last.verdict, last.packet.source, last.packet.destination) == (REDIRECT, VIP, WORLD)


def test_a_datagram_without_checksum_keeps_having_none(node: PacketNode) -> None:
    node.service([REMOTE], UDP, reach=OUTSIDE)
    out = node.outside(Packet(WORLD, VIP, UDP, udp_checksum=False))
    assert not out.packet.udp_checksum


def test_an_evicted_entry_of_the_answers_is_made_again_by_the_next_packet(node: PacketNode) -> None:
    node.service([REMOTE], reach=OUTSIDE)
    led = ask(node).packet
    answer(node, led)
    assert node.nat.delete([key for key, _ in node.nat.entries() if key[37]])[0] == 0
    assert answer(node, led, ACK).drop is Reason.UNROUTABLE
    ask(node, flags=ACK)
    assert answer(node, led, ACK).packet.destination == WORLD


@pytest.mark.parametrize("mac", [bytes.fromhex("020000000a63"), b"\xff" * 6], ids=["another host's", "everybody's"])
def test_a_frame_that_is_not_for_this_host_is_led_nowhere(node: PacketNode, mac: bytes) -> None:
    node.service([REMOTE], reach=OUTSIDE)
    packet = Packet(WORLD, VIP)
    out = node.outside(packet, mac)
    assert (out.verdict, out.packet) == (PASS, packet)
    assert list(node.nat.entries()) == []
    assert node.outside(packet).verdict == REDIRECT


def test_a_retry_leaves_a_backend_that_takes_no_new_connections_and_what_is_open_stays(node: PacketNode) -> None:
    other = "10.2.1.11"
    node.ipcache(f"{other}/32", (2 << 16) + 6, REMOTE_NODE, 2)
    node.service([REMOTE], reach=OUTSIDE)
    led = ask(node, source_port=1000).packet
    answer(node, led)
    ask(node, source_port=1000, flags=ACK)
    assert ask(node).packet.destination == REMOTE_POD
    node.service([(3, other, 9090)], reach=OUTSIDE)
    node.maps.members.delete([MemberKey(7, 2)])
    assert ask(node).packet.destination == other
    assert ask(node, source_port=1000, flags=ACK).packet.destination == REMOTE_POD


def test_datagrams_left_to_the_stack_are_led_on_once_its_cluster_has_no_backend(node: PacketNode) -> None:
    node.service([LOCAL], UDP, reach=OUTSIDE)
    assert ask(node, UDP).verdict == PASS
    node.service([REMOTE], UDP, reach=OUTSIDE)
    node.maps.members.delete([MemberKey(7, 1)])
    assert ask(node, UDP).packet.destination == REMOTE_POD


def test_nobody_outside_says_which_ports_the_fragments_of_a_pod_have(node: PacketNode) -> None:
    forged = Packet(POD, WORLD, UDP, payload=bytes(64), fragment=0x2000, identification=77)
    assert node.outside(forged).verdict == PASS
    assert node.send(replace(forged, fragment=9)).drop is Reason.FIRST_FRAGMENT_MISSING


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_a_port_that_another_client_got_meanwhile_is_not_used_by_two(node: PacketNode, protocol: int) -> None:
    node.service([REMOTE], protocol, reach=OUTSIDE)
    led = ask(node, protocol).packet
    ((key, value),) = [(key, value) for key, value in node.nat.entries() if key[37]]
    another = value.replace(struct.pack("!H", 40000), struct.pack("!H", 40001))
    assert another != value
    assert node.nat.update([key], [another])[0] == 0
    out = ask(node, protocol, flags=ACK)
    if protocol == TCP:
        assert out.answered is Reason.NO_BACKEND
        assert out.packet.flags & RST
    else:
        assert out.packet.source_port != led.source_port
    assert answer(node, led, ACK).packet.destination_port == 40001


@pytest.mark.parametrize("vlan", [0, 99])
@pytest.mark.parametrize("is_sent", [False, True], ids=["from outside", "from the node"])
def test_a_frame_with_a_vlan_tag_is_the_stacks(node: PacketNode, vlan: int, is_sent: bool) -> None:
    node.service([REMOTE], reach=OUTSIDE)
    packet = Packet(NODE, REMOTE_POD) if is_sent else Packet(WORLD, VIP)
    out = node.tagged(packet, vlan, is_sent=is_sent)
    assert (out.verdict, out.packet) == (PASS, packet)
    assert (node.leave if is_sent else node.outside)(packet).verdict == REDIRECT
