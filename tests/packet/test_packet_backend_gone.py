# SPDX-License-Identifier: Apache-2.0
"""A backend that is no longer chosen keeps its connections; one whose address is gone ends them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.datapath.layout import AddressKey, BackendKey, BackendState, IpcacheKey, MemberKey
from agent.datapath.reasons import Reason
from tests.packet.packet_bytes import ACK, ICMP, RST, TCP, UDP, Packet
from tests.packet.packet_node import NEIGHBOUR, POD, REMOTE_NODE, REMOTE_POD, VIP, PacketNode

pytestmark = pytest.mark.root
LOCAL, REMOTE = (1, NEIGHBOUR, 8080), (2, REMOTE_POD, 9090)
OUTSIDE = (3, "198.51.100.7", 7070)


def _set_state(node: PacketNode, backend: int, state: BackendState) -> None:
    value = node.maps.backends.get(BackendKey(backend))
    assert value is not None
    node.maps.backends.update([(BackendKey(backend), value._replace(state=state))])


def _delete_service(node: PacketNode) -> None:
    node.maps.services.delete([key for key, _ in node.maps.services.items()])
    node.maps.members.delete([key for key, _ in node.maps.members.items()])


def _forget_address(node: PacketNode, backend: tuple[int, str, int]) -> None:
    """The backend is in no map."""
    node.maps.backends.delete([BackendKey(backend[0])])
    node.maps.ipcache.delete([IpcacheKey(f"{backend[1]}/32")])
    node.maps.endpoints_by_address.delete([AddressKey(backend[1])])


def _sent(node: PacketNode, protocol: int = TCP) -> tuple[str, int]:
    packet = node.send(Packet(POD, VIP, protocol, flags=ACK)).packet
    return packet.destination, packet.destination_port


@pytest.mark.parametrize("protocol", [TCP, UDP])
@pytest.mark.parametrize("state", [BackendState.TERMINATING, BackendState.QUARANTINED, BackendState.MAINTENANCE])
@pytest.mark.parametrize("backend", [LOCAL, REMOTE, OUTSIDE], ids=["local", "remote", "outside"])
def test_a_backend_without_a_slot_keeps_its_connections(
    node: PacketNode, backend: tuple[int, str, int], state: BackendState, protocol: int
) -> None:
    node.service([backend], protocol)
    node.send(Packet(POD, VIP, protocol))
    node.service([(9, "10.2.1.99", 9090)], protocol)
    node.maps.members.delete([MemberKey(7, backend[0])])
    _set_state(node, backend[0], state)
    assert _sent(node, protocol) == backend[1:]


@pytest.mark.parametrize("protocol", [TCP, UDP])
@pytest.mark.parametrize("backend", [LOCAL, REMOTE], ids=["local", "remote"])
def test_a_connection_outlives_its_service_and_backend_entry_while_the_pod_lives(
    node: PacketNode, backend: tuple[int, str, int], protocol: int
) -> None:
    node.service([backend], protocol)
    out = node.send(Packet(POD, VIP, protocol))
    _delete_service(node)
    node.maps.backends.delete([BackendKey(backend[0])])
    assert _sent(node, protocol) == backend[1:]
    answer = replace(out.packet.reverse, ttl=64)
    back = node.overlay(answer) if backend == REMOTE else node.receive(answer)
    assert (back.packet.source, back.packet.source_port) == (VIP, 80)


def test_a_recreated_service_does_not_move_an_open_connection(node: PacketNode) -> None:
    node.service([REMOTE])
    node.send(Packet(POD, VIP))
    _delete_service(node)
    node.maps.backends.delete([BackendKey(REMOTE[0])])
    node.service([(20, NEIGHBOUR, 8080), (21, REMOTE_POD, 9090)])
    assert {_sent(node) for _ in range(20)} == {REMOTE[1:]}


def test_a_reused_id_is_not_mistaken_for_the_old_backend(node: PacketNode) -> None:
    node.service([REMOTE])
    node.send(Packet(POD, VIP))
    node.service([(REMOTE[0], NEIGHBOUR, 8080)])
    assert _sent(node) == REMOTE[1:]
    node.maps.ipcache.delete([IpcacheKey(f"{REMOTE_POD}/32")])
    assert node.send(Packet(POD, VIP, flags=ACK)).answered is Reason.NO_BACKEND


@pytest.mark.parametrize("with_service", [True, False], ids=["service", "no service"])
@pytest.mark.parametrize("backend", [LOCAL, REMOTE, OUTSIDE], ids=["local", "remote", "outside"])
def test_a_tcp_connection_to_an_address_that_is_gone_is_reset(
    node: PacketNode, backend: tuple[int, str, int], with_service: bool
) -> None:
    node.service([backend])
    node.send(Packet(POD, VIP))
    if with_service:
        node.service([(9, "10.2.1.99", 9090)])
    else:
        _delete_service(node)
    _forget_address(node, backend)
    out = node.send(Packet(POD, VIP, flags=ACK))
    assert out.answered is Reason.NO_BACKEND
    assert (out.packet.source, out.packet.source_port, out.packet.flags) == (VIP, 80, RST)


def test_the_network_of_a_pod_that_is_gone_does_not_keep_its_connections(node: PacketNode) -> None:
    node.service([REMOTE])
    node.send(Packet(POD, VIP))
    node.ipcache("10.2.1.0/24", 0, REMOTE_NODE, 2)
    _forget_address(node, REMOTE)
    assert node.send(Packet(POD, VIP, flags=ACK)).answered is Reason.NO_BACKEND


def test_a_policys_network_does_not_keep_the_connections_of_an_address_that_is_gone(node: PacketNode) -> None:
    node.service([OUTSIDE])
    node.send(Packet(POD, VIP))
    node.ipcache("198.51.100.0/24", (1 << 24) + 7)
    _forget_address(node, OUTSIDE)
    assert node.send(Packet(POD, VIP, flags=ACK)).answered is Reason.NO_BACKEND


def test_a_udp_client_of_an_address_that_is_gone_gets_another_backend(node: PacketNode) -> None:
    node.service([REMOTE], UDP)
    node.send(Packet(POD, VIP, UDP))
    node.service([LOCAL], UDP)
    _forget_address(node, REMOTE)
    assert _sent(node, UDP) == LOCAL[1:]


def test_a_udp_client_of_the_last_backend_that_is_gone_is_refused(node: PacketNode) -> None:
    node.service([REMOTE], UDP)
    node.send(Packet(POD, VIP, UDP))
    node.service([], UDP)
    _forget_address(node, REMOTE)
    out = node.send(Packet(POD, VIP, UDP))
    assert (out.answered, out.packet.protocol) == (Reason.NO_BACKEND, ICMP)


def test_a_syn_on_the_ports_of_a_connection_to_an_address_that_is_gone_selects_anew(node: PacketNode) -> None:
    node.service([REMOTE])
    node.send(Packet(POD, VIP))
    node.service([LOCAL])
    _forget_address(node, REMOTE)
    assert node.send(Packet(POD, VIP)).packet.destination == NEIGHBOUR


def test_a_syn_whose_backends_id_leads_elsewhere_selects_anew(node: PacketNode) -> None:
    node.service([REMOTE])
    node.send(Packet(POD, VIP))
    _forget_address(node, REMOTE)
    node.service([(REMOTE[0], NEIGHBOUR, 8080)])
    assert node.send(Packet(POD, VIP)).packet.destination == NEIGHBOUR
