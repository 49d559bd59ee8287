# SPDX-License-Identifier: Apache-2.0
"""A pod's connection through its proxy has a port that another one had a moment ago: the proxy's to the server, or its own."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

import pytest

from agent.datapath.config import AttachMode
from agent.datapath.flow_layout import ConntrackKey, ConntrackKind, ConntrackValue
from agent.datapath.layout import Direction
from agent.datapath.proxy_routes import prepare_stack
from agent.datapath.untracked import TABLE, track_again
from meshpolicy import Direction as PolicyDirection
from meshpolicy.http_rule import HttpRule
from meshpolicy.proxy_ports import Listener
from tests.integration.datapath.datapath_topology import Node, Pod, Topology
from tests.integration.datapath.dns_node import wait_until
from tests.integration.datapath.masquerade import masquerading
from tests.integration.datapath.node_envoy import PORT, WEB_PORT, envoy_of, redirect
from tests.integration.datapath.recorder import Recorder
from tests.packet.datapath_host import inside, run
from tests.packet.packet_bytes import ACK, checksum

pytestmark = [
    pytest.mark.root,
    pytest.mark.parametrize("mesh", [(AttachMode.TCX, True)], indirect=True, scope="module"),
]
SAME, ENDED, TRACKED, FORGOTTEN, BEFORE = 40000, 40010, 40020, 40030, 40040
SEEN_REPLY = 8
"""`CT_SEEN_REPLY`."""
RULES = frozenset((HttpRule("GET", "/ok"),))
REQUEST = b"GET /ok HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture
def server(clean: Topology) -> Iterator[Recorder]:
    """In the other cluster, asked through a proxy of the client's node, whose CNI masquerades."""
    made, node = Recorder(clean.nodes[2].pods[0]), clean.nodes[0]
    redirect(node, node.pods[0], Direction.EGRESS)
    with inside(node.namespace):
        assert prepare_stack() == ""
    with envoy_of(node, {PORT: Listener(PolicyDirection.EGRESS, RULES)}), masquerading(node):
        yield made
    made.close()


def by_port(pod: Pod, port: int, address: str) -> socket.socket:
    """A connection of the pod from this port of its own; 0 is any."""
    with inside(pod.namespace):
        made = socket.socket()
    made.settimeout(5)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("", port))
    made.connect((address, WEB_PORT))
    return made


@contextlib.contextmanager
def only_port(namespace: str, port: int) -> Iterator[None]:
    """Connections from this namespace have this even port, unless the stack still remembers one that had it."""
    name = "net.ipv4.ip_local_port_range"
    run("ip", "netns", "exec", namespace, "sysctl", "-qw", f"{name}={port} {port + 1}")
    try:
        yield
    finally:
        run("ip", "netns", "exec", namespace, "sysctl", "-qw", f"{name}=32768 60999")


def late(server: str, client: str, port: int) -> None:
    """The stack of this namespace tracks what a server says in a connection that it knows nothing of."""
    addresses = socket.inet_aton(server) + socket.inet_aton(client)
    start, end = struct.pack("!HHIIBBH", WEB_PORT, port, 1, 1, 5 << 4, ACK, 64), bytes(2)
    pseudo = addresses + struct.pack("!HH", socket.IPPROTO_TCP, len(start) + 4)
    header = start + struct.pack("!H", checksum(pseudo + start + bytes(4))) + end
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0, 64, socket.IPPROTO_TCP, 0) + addresses
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(ip + header, (client, 0))


def tracked(node: Node) -> set[ConntrackKey]:
    maps = node.maps
    return {key for entries in (maps.conntrack_tcp, maps.conntrack_opening) for key, _ in entries.items()}


def test_a_port_that_the_proxy_had_to_the_server_may_be_the_pods_next(clean: Topology, server: Recorder) -> None:
    client, address = clean.nodes[0].pods[0], clean.nodes[2].pods[0].address
    with by_port(client, 0, address) as made:
        made.sendall(REQUEST + b"\r\n")
        assert made.recv(4096).startswith(b"HTTP/1.1 200")
    wait_until(lambda: server.ended == 1)
    with by_port(client, server.ports[0], address) as made:
        made.sendall(REQUEST + b"\r\n")
        assert made.recv(4096).startswith(b"HTTP/1.1 200")


def test_a_port_of_a_connection_that_the_proxy_ended_may_be_the_pods_next(clean: Topology, server: Recorder) -> None:
    """The node's stack remembers that one for a minute."""
    client, address = clean.nodes[0].pods[0], clean.nodes[2].pods[0].address
    ports = []
    for _ in range(2):
        with by_port(client, ports[0] if ports else 0, address) as made:
            ports.append(made.getsockname()[1])
            made.sendall(REQUEST + b"Connection: close\r\n\r\n")
            answer = b""
            while part := made.recv(4096):
                answer += part
            assert answer.startswith(b"HTTP/1.1 200")
    assert ports[0] == ports[1]


def test_the_proxy_may_choose_the_very_port_that_the_pod_has(clean: Topology, server: Recorder) -> None:
    """Linux gives both one port after the other, as their addresses are the same, and so now and then the same one."""
    client, address, node = clean.nodes[0].pods[0], clean.nodes[2].pods[0].address, clean.nodes[0].namespace
    with only_port(node, SAME), by_port(client, SAME, address) as made:
        made.sendall(REQUEST + b"\r\n")
        assert made.recv(4096).startswith(b"HTTP/1.1 200")
        assert server.ports == [SAME]


def test_the_end_of_a_connection_that_the_proxy_has_ended_is_not_the_pods(clean: Topology, server: Recorder) -> None:
    """The node's stack remembers it without a socket of the proxy, and nothing of it reaches the pod."""
    client, address, node = clean.nodes[0].pods[0], clean.nodes[2].pods[0].address, clean.nodes[0]
    server.waits_s = 0.3
    with only_port(node.namespace, ENDED), by_port(client, 0, address) as made:
        made.sendall(REQUEST + b"\r\n")
        assert made.recv(4096).startswith(b"HTTP/1.1 200")
    wait_until(lambda: server.ended == 1)
    wait_until(lambda: f"{client.address}:{ENDED}" in run("ip", "netns", "exec", node.namespace, "ss", "-Htan"))
    assert not [key for key in tracked(node) if key.kind == ConntrackKind.INGRESS and key.destination_port == ENDED]


def test_what_was_tracked_the_other_way_is_over_when_the_pod_or_the_proxy_opens_one(
    clean: Topology, server: Recorder
) -> None:
    client, address, node = clean.nodes[0].pods[0], clean.nodes[2].pods[0].address, clean.nodes[0]
    old = ConntrackValue(9, 999, 2**32 - 1, 0, flags=SEEN_REPLY, tcp_forward=ACK, tcp_reply=ACK)
    for port in (TRACKED, TRACKED + 2):
        key = ConntrackKey(address, client.address, WEB_PORT, port, socket.IPPROTO_TCP, ConntrackKind.INGRESS)
        node.maps.conntrack_tcp.update([(key, old)])
    with only_port(node.namespace, TRACKED), by_port(client, TRACKED + 2, address) as made:
        made.sendall(REQUEST + b"\r\n")
        assert made.recv(4096).startswith(b"HTTP/1.1 200")
    assert server.ports == [TRACKED]


def test_what_the_pod_had_by_itself_takes_no_answer_from_the_proxy(clean: Topology, server: Recorder) -> None:
    """On the port that the proxy gets, to the same server, before there was a rule."""
    client, address, node = clean.nodes[0].pods[0], clean.nodes[2].pods[0].address, clean.nodes[0]
    had = ConntrackValue(9, 999, 2**32 - 1, 0, flags=SEEN_REPLY, tcp_forward=ACK, tcp_reply=ACK)
    key = ConntrackKey(client.address, address, BEFORE, WEB_PORT, socket.IPPROTO_TCP, ConntrackKind.EGRESS)
    node.maps.conntrack_tcp.update([(key, had)])
    with only_port(node.namespace, BEFORE), by_port(client, BEFORE + 2, address) as made:
        made.sendall(REQUEST + b"\r\n")
        assert made.recv(4096).startswith(b"HTTP/1.1 200")
    assert server.ports == [BEFORE]


def test_where_a_connection_goes_is_not_asked_of_what_the_stack_tracks(clean: Topology, server: Recorder) -> None:
    """A server's packet that came when its connection was forgotten began one to the pod, which would be its own server."""
    client, address, node = clean.nodes[0].pods[0], clean.nodes[2].pods[0].address, clean.nodes[0]
    with inside(node.namespace):
        late(address, client.address, FORGOTTEN)
    with by_port(client, FORGOTTEN, address) as made:
        made.sendall(REQUEST + b"\r\n")
        assert made.recv(4096).startswith(b"HTTP/1.1 200")


def test_the_rules_are_there_once_and_go_again(clean: Topology) -> None:
    node = clean.nodes[0]
    listing = ("ip", "netns", "exec", node.namespace, "nft", "list", "ruleset")
    with inside(node.namespace):
        for _ in range(2):
            assert prepare_stack() == ""
        assert run(*listing).count("notrack") == 2
        for _ in range(2):
            track_again()
    assert f"table ip {TABLE}" not in run(*listing)
