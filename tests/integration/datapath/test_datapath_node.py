# SPDX-License-Identifier: Apache-2.0
"""A node's own processes reach pods of the other cluster, in network namespaces, through real programs and sockets."""

from __future__ import annotations

import socket

import pytest

from tests.integration.datapath.datapath_topology import TCP_PORT, UDP_PORT, Node, Topology, exchange
from tests.packet.datapath_host import inside

pytestmark = pytest.mark.root


def socket_of(node: Node, kind: socket.SocketKind) -> socket.socket:
    """A socket of a process of the node."""
    with inside(node.namespace):
        made = socket.socket(socket.AF_INET, kind)
    made.settimeout(2)
    return made


def send_often(made: socket.socket, data: bytes) -> None:
    """Three times: what a first packet brings back is told to a later one."""
    for _ in range(3):
        made.send(data)


def test_a_process_of_the_node_reaches_pods_of_the_other_cluster_from_the_nodes_address(clean: Topology) -> None:
    node, pod = clean.nodes[0], clean.nodes[2].pods[0]
    with socket_of(node, socket.SOCK_STREAM) as stream:
        stream.connect((pod.address, TCP_PORT))
        assert exchange(stream) == f"{pod.name} {node.address}"
    with socket_of(node, socket.SOCK_DGRAM) as datagram:
        datagram.sendto(b"?", (pod.address, UDP_PORT))
        assert datagram.recvfrom(256) == (f"{pod.name} {node.address}".encode(), (pod.address, UDP_PORT))


def test_a_process_of_the_node_is_told_what_the_overlay_takes(clean: Topology) -> None:
    """The route says 1500 bytes and the overlay takes 1450."""
    node, pod = clean.nodes[0], clean.nodes[2].pods[0]
    with socket_of(node, socket.SOCK_DGRAM) as datagram:
        datagram.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
        datagram.connect((pod.address, UDP_PORT))
        with pytest.raises(OSError, match="Message too long"):
            send_often(datagram, bytes(1440))
        datagram.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        datagram.send(bytes(1422))
        assert datagram.recv(256).startswith(pod.name.encode())
        assert datagram.getsockopt(socket.IPPROTO_IP, 14) == 1450  # IP_MTU


def test_a_pod_is_reached_by_its_own_node_and_by_nodes_of_its_cluster_as_before(clean: Topology) -> None:
    pod = clean.nodes[0].pods[0]
    for node in clean.nodes[:2]:
        with socket_of(node, socket.SOCK_STREAM) as stream:
            stream.connect((pod.address, TCP_PORT))
            assert exchange(stream) == f"{pod.name} {node.address}"
