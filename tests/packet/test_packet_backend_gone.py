# SPDX-License-Identifier: Apache-2.0
"""A backend that is no longer chosen keeps its connections; one whose address is gone ends them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.datapath.layout import AddressKey, BackendKey, BackendState, IpcacheKey, MemberKey
from agent.datapath.reasons import Reason
from tests.packet.ends import Backend, Ends
from tests.packet.packet_bytes import ACK, RST, TCP, UDP
from tests.packet.packet_node import REMOTE_NODE, PacketNode

pytestmark = pytest.mark.root


def _set_state(node6: PacketNode, ends: Ends, backend: int, state: BackendState) -> None:
    value = node6.service_maps(ends.vip).backends.get(BackendKey(backend))
    assert value is not None
    node6.service_maps(ends.vip).backends.update([(BackendKey(backend), value._replace(state=state))])


def _delete_service(node6: PacketNode, ends: Ends) -> None:
    node6.service_maps(ends.vip).services.delete([key for key, _ in node6.service_maps(ends.vip).services.items()])
    node6.service_maps(ends.vip).members.delete([key for key, _ in node6.service_maps(ends.vip).members.items()])


def _forget_address(node6: PacketNode, ends: Ends, backend: Backend) -> None:
    """The backend is in no map."""
    node6.service_maps(ends.vip).backends.delete([BackendKey(backend[0])])
    node6.maps.ipcache.delete([IpcacheKey(ends.whole(backend[1]))])
    node6.maps.endpoints_by_address.delete([AddressKey(backend[1])])


def _sent(node6: PacketNode, ends: Ends, protocol: int = TCP) -> tuple[str, int]:
    packet = node6.send(ends.packet(ends.pod, ends.vip, protocol, flags=ACK)).packet
    return packet.destination, packet.destination_port


@pytest.mark.parametrize("protocol", [TCP, UDP])
@pytest.mark.parametrize("state", [BackendState.TERMINATING, BackendState.QUARANTINED, BackendState.MAINTENANCE])
@pytest.mark.parametrize("backend", ["local", "remote", "outside"])
def test_a_backend_without_a_slot_keeps_its_connections(
    node6: PacketNode, ends: Ends, backend: str, state: BackendState, protocol: int
) -> None:
    node6.service([ends.backend(backend)], protocol, address=ends.vip)
    node6.send(ends.packet(ends.pod, ends.vip, protocol))
    node6.service([(9, ends.stranger, 9090)], protocol, address=ends.vip)
    node6.service_maps(ends.vip).members.delete([MemberKey(7, ends.backend(backend)[0])])
    _set_state(node6, ends, ends.backend(backend)[0], state)
    assert _sent(node6, ends, protocol) == ends.backend(backend)[1:]


@pytest.mark.parametrize("protocol", [TCP, UDP])
@pytest.mark.parametrize("backend", ["local", "remote"])
def test_a_connection_outlives_its_service_and_backend_entry_while_the_pod_lives(
    node6: PacketNode, ends: Ends, backend: str, protocol: int
) -> None:
    node6.service([ends.backend(backend)], protocol, address=ends.vip)
    out = node6.send(ends.packet(ends.pod, ends.vip, protocol))
    _delete_service(node6, ends)
    node6.service_maps(ends.vip).backends.delete([BackendKey(ends.backend(backend)[0])])
    assert _sent(node6, ends, protocol) == ends.backend(backend)[1:]
    answer = replace(out.packet.reverse, ttl=64)
    back = node6.overlay(answer) if backend == "remote" else node6.receive(answer)
    assert (back.packet.source, back.packet.source_port) == (ends.vip, 80)


def test_a_recreated_service_does_not_move_an_open_connection(node6: PacketNode, ends: Ends) -> None:
    node6.service([ends.remote], address=ends.vip)
    node6.send(ends.packet(ends.pod, ends.vip))
    _delete_service(node6, ends)
    node6.service_maps(ends.vip).backends.delete([BackendKey(ends.remote[0])])
    node6.service([(20, ends.neighbour, 8080), (21, ends.remote_pod, 9090)], address=ends.vip)
    assert {_sent(node6, ends) for _ in range(20)} == {ends.remote[1:]}


def test_a_reused_id_is_not_mistaken_for_the_old_backend(node6: PacketNode, ends: Ends) -> None:
    node6.service([ends.remote], address=ends.vip)
    node6.send(ends.packet(ends.pod, ends.vip))
    node6.service([(ends.remote[0], ends.neighbour, 8080)], address=ends.vip)
    assert _sent(node6, ends) == ends.remote[1:]
    node6.maps.ipcache.delete([IpcacheKey(ends.whole(ends.remote_pod))])
    assert node6.send(ends.packet(ends.pod, ends.vip, flags=ACK)).answered is Reason.NO_BACKEND


@pytest.mark.parametrize("with_service", [True, False], ids=["service", "no service"])
@pytest.mark.parametrize("backend", ["local", "remote", "outside"])
def test_a_tcp_connection_to_an_address_that_is_gone_is_reset(
    node6: PacketNode, ends: Ends, backend: str, with_service: bool
) -> None:
    node6.service([ends.backend(backend)], address=ends.vip)
    node6.send(ends.packet(ends.pod, ends.vip))
    if with_service:
        node6.service([(9, ends.stranger, 9090)], address=ends.vip)
    else:
        _delete_service(node6, ends)
    _forget_address(node6, ends, ends.backend(backend))
    out = node6.send(ends.packet(ends.pod, ends.vip, flags=ACK))
    assert out.answered is Reason.NO_BACKEND
    assert (out.packet.source, out.packet.source_port, out.packet.flags) == (ends.vip, 80, RST)


def test_the_network_of_a_pod_that_is_gone_does_not_keep_its_connections(node6: PacketNode, ends: Ends) -> None:
    node6.service([ends.remote], address=ends.vip)
    node6.send(ends.packet(ends.pod, ends.vip))
    node6.ipcache(ends.network, 0, REMOTE_NODE, 2)
    _forget_address(node6, ends, ends.remote)
    assert node6.send(ends.packet(ends.pod, ends.vip, flags=ACK)).answered is Reason.NO_BACKEND


def test_a_policys_network_does_not_keep_the_connections_of_an_address_that_is_gone(
    node6: PacketNode, ends: Ends
) -> None:
    node6.service([ends.outside], address=ends.vip)
    node6.send(ends.packet(ends.pod, ends.vip))
    node6.ipcache(ends.outsiders, (1 << 24) + 7)
    _forget_address(node6, ends, ends.outside)
    assert node6.send(ends.packet(ends.pod, ends.vip, flags=ACK)).answered is Reason.NO_BACKEND


def test_a_udp_client_of_an_address_that_is_gone_gets_another_backend(node6: PacketNode, ends: Ends) -> None:
    node6.service([ends.remote], UDP, address=ends.vip)
    node6.send(ends.packet(ends.pod, ends.vip, UDP))
    node6.service([ends.local], UDP, address=ends.vip)
    _forget_address(node6, ends, ends.remote)
    assert _sent(node6, ends, UDP) == ends.local[1:]


def test_a_udp_client_of_the_last_backend_that_is_gone_is_refused(node6: PacketNode, ends: Ends) -> None:
    node6.service([ends.remote], UDP, address=ends.vip)
    node6.send(ends.packet(ends.pod, ends.vip, UDP))
    node6.service([], UDP, address=ends.vip)
    _forget_address(node6, ends, ends.remote)
    out = node6.send(ends.packet(ends.pod, ends.vip, UDP))
    assert (out.answered, out.packet.protocol) == (Reason.NO_BACKEND, ends.icmp)


def test_a_syn_on_the_ports_of_a_connection_to_an_address_that_is_gone_selects_anew(
    node6: PacketNode, ends: Ends
) -> None:
    node6.service([ends.remote], address=ends.vip)
    node6.send(ends.packet(ends.pod, ends.vip))
    node6.service([ends.local], address=ends.vip)
    _forget_address(node6, ends, ends.remote)
    assert node6.send(ends.packet(ends.pod, ends.vip)).packet.destination == ends.neighbour


def test_a_syn_whose_backends_id_leads_elsewhere_selects_anew(node6: PacketNode, ends: Ends) -> None:
    node6.service([ends.remote], address=ends.vip)
    node6.send(ends.packet(ends.pod, ends.vip))
    _forget_address(node6, ends, ends.remote)
    node6.service([(ends.remote[0], ends.neighbour, 8080)], address=ends.vip)
    assert node6.send(ends.packet(ends.pod, ends.vip)).packet.destination == ends.neighbour
