# SPDX-License-Identifier: Apache-2.0
"""One pod, one of its ports, and two ways to the same backend: the connection that is open keeps its packets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.datapath.reasons import Reason
from tests.packet.ends import IPV4, Ends
from tests.packet.packet_bytes import ACK, RST, SCTP, SYN, TCP, UDP, Packet
from tests.packet.packet_node import PASS, REDIRECT, PacketNode

pytestmark = pytest.mark.root


def second_frontend(node6: PacketNode, ends: Ends) -> None:
    """The other address leads where the first one leads."""
    entries = [
        (key._replace(address=ends.other_vip), value) for key, value in node6.service_maps(ends.vip).services.items()
    ]
    node6.service_maps(ends.vip).services.update(sorted(entries, key=lambda entry: -entry[0].slot))


def connect(node6: PacketNode, ends: Ends, address: str, protocol: int = TCP, port: int = 80) -> Packet:
    """An established connection of the pod; its last packet as the backend gets it."""
    out = node6.send(ends.packet(ends.pod, address, protocol, destination_port=port))
    node6.overlay(replace(out.packet.reverse, ttl=64, flags=SYN | ACK))
    last = node6.send(ends.packet(ends.pod, address, protocol, destination_port=port, flags=ACK)).packet
    assert last.destination == ends.remote_pod
    return last


def answered_from(node6: PacketNode, ends: Ends, sent: Packet) -> tuple[str, int]:
    """Who the pod takes the backend's next packet for."""
    back = node6.overlay(replace(sent.reverse, ttl=64, flags=ACK))
    assert back.verdict == REDIRECT
    return back.packet.source, back.packet.source_port


def test_a_second_frontend_of_the_only_backend_is_refused_on_the_ports_of_an_open_association(
    node6: PacketNode,
) -> None:
    check_second_frontend(node6, IPV4, SCTP)


def test_a_second_frontend_of_the_only_backend_is_refused_on_the_ports_of_an_open_connection(
    node6: PacketNode, ends: Ends
) -> None:
    check_second_frontend(node6, ends, TCP)


def check_second_frontend(node6: PacketNode, ends: Ends, protocol: int) -> None:
    node6.service([ends.remote], protocol, address=ends.vip)
    second_frontend(node6, ends)
    sent = connect(node6, ends, ends.vip, protocol)
    refused = node6.send(ends.packet(ends.pod, ends.other_vip, protocol))
    assert (refused.answered, refused.packet.source) == (Reason.NAT_FULL, ends.other_vip)
    assert answered_from(node6, ends, sent) == (ends.vip, 80)
    assert node6.send(ends.packet(ends.pod, ends.vip, protocol, flags=ACK)).packet.destination == ends.remote_pod


@pytest.mark.parametrize("affinity_s", [0, 100])
def test_a_second_frontend_leads_to_another_backend_on_the_ports_of_an_open_connection(
    node6: PacketNode, ends: Ends, affinity_s: int
) -> None:
    node6.service([ends.remote], affinity_s=affinity_s, address=ends.vip)
    sent = connect(node6, ends, ends.vip)
    node6.service([ends.local, ends.remote], affinity_s=affinity_s, address=ends.vip)
    second_frontend(node6, ends)
    for _ in range(4):
        other = node6.send(ends.packet(ends.pod, ends.other_vip))
        assert other.packet.destination == ends.neighbour
        answer = node6.receive(other.packet.reverse)
        assert (answer.verdict, answer.packet.source) == (PASS, ends.other_vip)
        node6.send(ends.packet(ends.pod, ends.other_vip, flags=RST))
    assert answered_from(node6, ends, sent) == (ends.vip, 80)


def test_who_is_spoken_to_directly_is_refused_on_the_ports_of_an_open_connection_through_a_service(
    node6: PacketNode,
    ends: Ends,
) -> None:
    node6.service([ends.remote], address=ends.vip)
    sent = connect(node6, ends, ends.vip)
    refused = node6.send(ends.packet(ends.pod, ends.remote_pod, destination_port=ends.remote[2]))
    assert (refused.answered, refused.packet.source) == (Reason.NAT_FULL, ends.remote_pod)
    assert answered_from(node6, ends, sent) == (ends.vip, 80)


def test_a_service_takes_no_open_connection_that_was_made_to_its_backend_directly(
    node6: PacketNode, ends: Ends
) -> None:
    node6.service([ends.remote], address=ends.vip)
    sent = connect(node6, ends, ends.remote_pod, port=ends.remote[2])
    assert node6.send(ends.packet(ends.pod, ends.vip)).answered == Reason.NAT_FULL
    assert answered_from(node6, ends, sent) == ends.remote[1:]


def test_ports_of_a_connection_that_is_over_lead_through_any_frontend(node6: PacketNode, ends: Ends) -> None:
    node6.service([ends.remote], address=ends.vip)
    second_frontend(node6, ends)
    connect(node6, ends, ends.vip)
    node6.send(ends.packet(ends.pod, ends.vip, flags=RST | ACK))
    assert answered_from(node6, ends, connect(node6, ends, ends.other_vip)) == (ends.other_vip, 80)
    node6.send(ends.packet(ends.pod, ends.other_vip, flags=RST | ACK))
    assert answered_from(node6, ends, connect(node6, ends, ends.remote_pod, port=ends.remote[2])) == ends.remote[1:]


def test_datagrams_of_one_socket_to_two_frontends_go_to_two_backends(node6: PacketNode, ends: Ends) -> None:
    node6.service([ends.remote], UDP, address=ends.vip)
    first = node6.send(ends.packet(ends.pod, ends.vip, UDP)).packet
    node6.overlay(replace(first.reverse, ttl=64))
    node6.send(ends.packet(ends.pod, ends.vip, UDP))
    node6.service([ends.local, ends.remote], UDP, address=ends.vip)
    second_frontend(node6, ends)
    assert node6.send(ends.packet(ends.pod, ends.other_vip, UDP)).packet.destination == ends.neighbour
    assert node6.overlay(replace(first.reverse, ttl=64)).packet.source == ends.vip
