# SPDX-License-Identifier: Apache-2.0
"""Sockets of the node that were led to a backend end when it goes; others, to the same address too, do not."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from agent.datapath.config import AttachMode
from agent.datapath.layout import ServiceFlag
from agent.datapath.socket_end import BackendPlace, end_sockets
from tests.integration.datapath.datapath_topology import TCP_PORT, UDP_PORT, Node, Pod, Topology, exchange, topology
from tests.integration.datapath.test_datapath_sockets import OF_NODE, UDP, VIP, member_of, socket_of
from tests.packet.datapath_host import bpffs, build_objects, inside
from tests.support.leftovers import own_name

pytestmark = pytest.mark.root
FAMILIES = {socket.AF_INET: "{}", socket.AF_INET6: "::ffff:{}"}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    build_objects()
    work = tmp_path_factory.mktemp("ends")
    with (
        member_of(work / "cgroup") as group,
        bpffs(work / "bpf") as pins,
        topology(own_name("ends"), pins, AttachMode.AUTO, control_group=group, unattended_after_s=60) as made,
    ):
        yield made


def connect(node: Node, address: str, port: int, kind: socket.SocketKind, family: int) -> socket.socket:
    made = socket_of(node, kind, family)
    made.connect((FAMILIES[socket.AddressFamily(family)].format(address), port))
    return made


def end(node: Node, *pods: Pod, kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    protocol, port = (6, TCP_PORT) if kind is socket.SOCK_STREAM else (UDP, UDP_PORT)
    with inside(node.namespace):
        return end_sockets(node.maps.sockets, [BackendPlace(pod.address, port, protocol) for pod in pods])


@pytest.mark.parametrize("family", FAMILIES, ids=["ipv4", "mapped"])
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
def test_the_process_hears_at_once_and_connects_to_another_backend(
    clean: Topology, kind: socket.SocketKind, family: int
) -> None:
    node, (first, second) = clean.nodes[0], clean.nodes[2].pods
    protocol = 6 if kind is socket.SOCK_STREAM else UDP
    clean.service(VIP, [first], protocol, flags=OF_NODE)
    with connect(node, VIP, 80, kind, family) as led:
        assert exchange(led).startswith(first.name)
        clean.service(VIP, [second], protocol, service_id=2, flags=OF_NODE)
        assert end(node, second, kind=kind) == 0
        assert end(node, first, kind=kind) == 1
        with pytest.raises(ConnectionAbortedError):
            led.recv(256)
    with connect(node, VIP, 80, kind, family) as led:
        assert exchange(led).startswith(second.name)
    assert end(node, first, kind=kind) == 0, "what has ended is not found again"


def test_sockets_that_no_program_led_there_go_on(clean: Topology) -> None:
    node, (pod, other) = clean.nodes[0], clean.nodes[2].pods
    clean.service(VIP, [pod, other], flags=OF_NODE)
    with connect(node, pod.address, TCP_PORT, socket.SOCK_STREAM, socket.AF_INET) as direct:
        assert exchange(direct).startswith(pod.name)
        led = [connect(node, VIP, 80, socket.SOCK_STREAM, socket.AF_INET) for _ in range(12)]
        try:
            answers = [exchange(one).split()[0] for one in led]
            assert end(node, pod) == answers.count(pod.name)
            assert end(node, pod) == 0
            assert exchange(direct).startswith(pod.name)
            for one, answer in zip(led, answers, strict=True):
                if answer == other.name:
                    assert exchange(one).startswith(other.name)
        finally:
            for one in led:
                one.close()


def test_many_ports_are_asked_for_together(clean: Topology) -> None:
    node, pod = clean.nodes[0], clean.nodes[2].pods[0]
    clean.service(VIP, [pod], flags=int(ServiceFlag.OF_NODE))
    places = [BackendPlace(pod.address, port, 6) for port in (*range(1, 20), TCP_PORT)]
    with connect(node, VIP, 80, socket.SOCK_STREAM, socket.AF_INET) as led, inside(node.namespace):
        assert end_sockets(node.maps.sockets, places) == 1
        with pytest.raises(ConnectionAbortedError):
            led.recv(1)
