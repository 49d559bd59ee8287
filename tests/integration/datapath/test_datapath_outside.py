# SPDX-License-Identifier: Apache-2.0
"""Who comes from outside reaches backends of the other cluster, in network namespaces, through real programs and sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from agent.datapath.flow_layout import MetricKey
from agent.datapath.layout import Direction, ServiceFlag
from agent.datapath.reasons import Reason
from tests.integration.datapath.datapath_topology import Topology, exchange
from tests.packet.datapath_host import inside, run

pytestmark = pytest.mark.root
EVERYWHERE, BALANCER, UDP = "0.0.0.0", "172.19.9.9", 17
OUTSIDE = int(ServiceFlag.OF_NODE | ServiceFlag.OF_OUTSIDERS)


@pytest.fixture
def routed(clean: Topology) -> Iterator[Topology]:
    """The network leads the balancer's address to the first node, by a path that takes no more than the overlay does."""
    address = clean.nodes[0].address
    run("ip", "-n", clean.underlay, "route", "add", BALANCER, "via", address, "mtu", "1400")
    yield clean
    run("ip", "-n", clean.underlay, "route", "del", BALANCER)


def outsider(mesh: Topology, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    with inside(mesh.underlay):
        made = socket.socket(socket.AF_INET, kind)
    made.settimeout(2)
    return made


@pytest.mark.parametrize("is_node_port", [True, False], ids=["node port", "balancer"])
def test_an_outsider_reaches_a_pod_of_the_other_cluster_which_sees_the_node(
    routed: Topology, is_node_port: bool
) -> None:
    node, pod = routed.nodes[0], routed.nodes[2].pods[0]
    target = node.address if is_node_port else BALANCER
    for protocol in (6, UDP):
        routed.service(EVERYWHERE if is_node_port else BALANCER, [pod], protocol, service_id=protocol, flags=OUTSIDE)
    with outsider(routed) as stream:
        stream.connect((target, 80))
        assert exchange(stream) == f"{pod.name} {node.address}"
        assert exchange(stream) == f"{pod.name} {node.address}"
    with outsider(routed, socket.SOCK_DGRAM) as datagram:
        datagram.sendto(b"?", (target, 80))
        assert datagram.recvfrom(256) == (f"{pod.name} {node.address}".encode(), (target, 80))


def test_many_outsiders_are_answered_each(routed: Topology) -> None:
    node, pods = routed.nodes[0], routed.nodes[2].pods
    routed.service(EVERYWHERE, pods, flags=OUTSIDE)
    streams = [outsider(routed) for _ in range(60)]
    try:
        for stream in streams:
            stream.connect((node.address, 80))
        assert {exchange(stream).split()[0] for stream in streams} == {pod.name for pod in pods}
    finally:
        for stream in streams:
            stream.close()


def test_a_long_stream_passes_both_ways_and_ends_in_order(routed: Topology) -> None:
    node, pod = routed.nodes[0], routed.nodes[2].pods[0]
    routed.service(EVERYWHERE, [pod], flags=OUTSIDE)
    with outsider(routed) as stream:
        stream.connect((node.address, 80))
        stream.sendall(bytes(256 * 1024))
        stream.shutdown(socket.SHUT_WR)
        got = b""
        while part := stream.recv(65536):
            got += part
        assert got.startswith(f"{pod.name} ".encode())


def test_large_datagrams_pass_in_fragments(routed: Topology) -> None:
    pod = routed.nodes[2].pods[0]
    routed.service(BALANCER, [pod], UDP, flags=OUTSIDE)
    with outsider(routed, socket.SOCK_DGRAM) as datagram:
        datagram.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER, IP_PMTUDISC_DONT
        datagram.sendto(bytes(4000), (BALANCER, 80))
        assert datagram.recv(256).startswith(pod.name.encode())


def test_a_closed_port_of_a_backend_refuses_the_outsider(routed: Topology) -> None:
    node, pod = routed.nodes[0], routed.nodes[2].pods[0]
    routed.service(EVERYWHERE, [pod], UDP, service_id=3, flags=OUTSIDE)
    closed = [(k, v._replace(port=9)) for k, v in node.maps.backends.items()]
    node.maps.backends.update(closed)
    with outsider(routed, socket.SOCK_DGRAM) as datagram:
        datagram.connect((node.address, 80))
        datagram.send(b"?")
        with pytest.raises(ConnectionRefusedError):
            datagram.recv(256)
    routed.service(EVERYWHERE, [pod], service_id=4, flags=OUTSIDE)
    node.maps.backends.update([(k, v._replace(port=9)) for k, v in node.maps.backends.items()])
    with outsider(routed) as stream, pytest.raises(ConnectionRefusedError):
        stream.connect((node.address, 80))


def test_what_is_left_to_the_stack_is_not_counted_as_ours(routed: Topology) -> None:
    """No proxy runs here: the node refuses for a backend of its own cluster."""
    node = routed.nodes[0]
    routed.service(EVERYWHERE, [routed.nodes[1].pods[0]], flags=OUTSIDE)
    key = MetricKey(Reason.FLOW_OF_OUTSIDERS, Direction.INGRESS)
    before = node.maps.metrics.get(key)
    with outsider(routed) as stream, pytest.raises(ConnectionRefusedError):
        stream.connect((node.address, 80))
    assert node.maps.metrics.get(key) == before
