# SPDX-License-Identifier: Apache-2.0
"""Connections through a proxy of the node: in either direction, to pods here and in another cluster, and by a service."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from agent.datapath.flow_layout import EventType, TracePoint
from agent.datapath.layout import Direction, EndpointFlag, IpcacheKey, IpcacheValue, PolicyKey, PolicyValue
from agent.datapath.reasons import Reason
from tests.integration.datapath.datapath_topology import TCP_PORT, Node, Pod, Topology, drain_events, exchange
from tests.integration.datapath.transparent_proxy import transparent_proxy
from tests.packet.datapath_host import inside

pytestmark = pytest.mark.root
VIP = "172.20.1.8"
PORT = 14001
_ENFORCE = {Direction.EGRESS: EndpointFlag.ENFORCE_EGRESS, Direction.INGRESS: EndpointFlag.ENFORCE_INGRESS}


def _redirect(node: Node, pod: Pod, direction: Direction, port: int = PORT, revision: int = 1) -> None:
    """What the pod does, or gets, on the servers' TCP port goes through a proxy; the rest is allowed."""
    entries = [
        (PolicyKey(pod.endpoint_id, direction, 0), PolicyValue(False, 1, 1)),
        (PolicyKey(pod.endpoint_id, direction, 0, 6, TCP_PORT, 16), PolicyValue(False, 2, 2, port)),
    ]
    node.maps.policy.update(entries)
    node.endpoint(pod, _ENFORCE[direction], revision)


def _place(mesh: Topology, where: str) -> tuple[Pod, Node, Pod, Node]:
    """Client and server with their nodes: on one node, on two of a cluster by its own routes, or in two clusters."""
    client, node = mesh.nodes[0].pods[0], mesh.nodes[0]
    other = {"local": node, "routed": mesh.nodes[1], "tunnel": mesh.nodes[2]}[where]
    server = other.pods[1]
    if where == "routed":
        for here, pod in ((node, server), (other, client)):
            here.maps.ipcache.update([(IpcacheKey(pod.address), IpcacheValue(pod.identity, cluster_id=here.cluster))])
    return client, node, server, other


@pytest.fixture(autouse=True)
def _routes(mesh: Topology) -> Iterator[None]:
    """What the tests say of routes is forgotten after each."""
    yield
    for node in mesh.nodes:
        node.maps.ipcache.update(mesh.ipcache_for(node))


@pytest.mark.parametrize("where", ["local", "routed", "tunnel"])
@pytest.mark.parametrize("direction", list(Direction))
def test_a_proxy_is_between_and_the_server_sees_the_client(clean: Topology, where: str, direction: Direction) -> None:
    client, client_node, server, server_node = _place(clean, where)
    pod, node = (client, client_node) if direction is Direction.EGRESS else (server, server_node)
    _redirect(node, pod, direction)
    clean.service(VIP, [server])
    expected = f"{direction.name.lower()}:{server.name} {client.address}"
    drain_events(node)
    with transparent_proxy(node, direction, PORT):
        for address, port in ((server.address, TCP_PORT), (VIP, 80)):
            with client.connect(address, port) as made:
                assert [exchange(made), exchange(made)] == [expected, expected]
    traced = {event.point for event in drain_events(node) if event.type == EventType.TRACE}
    assert TracePoint.TO_PROXY in traced


@pytest.mark.parametrize("where", ["local", "routed", "tunnel"])
def test_both_ends_may_have_a_proxy(clean: Topology, where: str) -> None:
    client, client_node, server, server_node = _place(clean, where)
    _redirect(client_node, client, Direction.EGRESS)
    _redirect(server_node, server, Direction.INGRESS, PORT + 1)
    with contextlib.ExitStack() as stack:
        stack.enter_context(transparent_proxy(client_node, Direction.EGRESS, PORT))
        stack.enter_context(transparent_proxy(server_node, Direction.INGRESS, PORT + 1))
        assert client.ask(server.address, TCP_PORT) == f"egress:ingress:{server.name} {client.address}"


@pytest.mark.parametrize("direction", list(Direction))
def test_without_its_proxy_a_port_is_closed_and_the_others_are_not(clean: Topology, direction: Direction) -> None:
    client, node, server, _ = _place(clean, "local")
    _redirect(node, client if direction is Direction.EGRESS else server, direction)
    drain_events(node)
    assert client.is_refused(server.address, TCP_PORT)
    reasons = {event.reason for event in drain_events(node) if event.type == EventType.DROP}
    assert reasons - {Reason.UNSUPPORTED_L3} == {Reason.NO_PROXY_SOCKET}  # a pod solicits IPv6 routers when it likes
    with client.datagram() as made:
        made.sendto(b"?", (server.address, 5353))
        assert made.recv(256).decode() == f"{server.name} {client.address}"


def test_the_policy_of_the_server_judges_who_asked_the_proxy(clean: Topology) -> None:
    client, node, server, other = _place(clean, "tunnel")
    _redirect(node, client, Direction.EGRESS)
    other.maps.policy.update(
        [(PolicyKey(server.endpoint_id, Direction.INGRESS, client.identity), PolicyValue(False, 1, 1))]
    )
    other.endpoint(server, EndpointFlag.ENFORCE_INGRESS)
    with transparent_proxy(node, Direction.EGRESS, PORT):
        assert client.ask(server.address, TCP_PORT) == f"egress:{server.name} {client.address}"
        other.maps.policy.delete([PolicyKey(server.endpoint_id, Direction.INGRESS, client.identity)])
        other.endpoint(server, EndpointFlag.ENFORCE_INGRESS, 2)
        with client.connect(server.address, TCP_PORT) as made:
            made.settimeout(0.4)
            with pytest.raises(TimeoutError):
                exchange(made)


def test_an_open_connection_ends_where_a_proxy_is_wanted_now(clean: Topology) -> None:
    client, node, server, _ = _place(clean, "local")
    with transparent_proxy(node, Direction.EGRESS, PORT), client.connect(server.address, TCP_PORT) as before:
        assert exchange(before) == f"{server.name} {client.address}"
        _redirect(node, client, Direction.EGRESS, revision=2)
        with client.connect(server.address, TCP_PORT) as after:
            assert exchange(after).startswith("egress:")
            node.endpoint(client, 0, 3)
            assert exchange(after).startswith("egress:")
        node.endpoint(client, EndpointFlag.ENFORCE_EGRESS, 4)
        before.settimeout(0.4)
        with pytest.raises(TimeoutError):
            exchange(before)


def test_the_node_is_never_taken_to_a_proxy(clean: Topology) -> None:
    node = clean.nodes[0]
    server = node.pods[1]
    key = PolicyKey(server.endpoint_id, Direction.INGRESS, 1)
    _redirect(node, server, Direction.INGRESS)
    node.maps.policy.update([(key, PolicyValue(False, 254, 3))])
    with inside(node.namespace), socket.create_connection((server.address, TCP_PORT), 2) as made:
        assert exchange(made).startswith(server.name)


def test_large_answers_fit_the_overlay(clean: Topology) -> None:
    client, node, server, _ = _place(clean, "tunnel")
    _redirect(node, client, Direction.EGRESS)
    with transparent_proxy(node, Direction.EGRESS, PORT), client.connect(server.address, TCP_PORT) as made:
        made.sendall(b"x" * 300_000)
        assert made.recv(256).startswith(b"egress:")


def test_a_process_of_the_node_on_the_port_is_no_proxy(clean: Topology) -> None:
    client, node, server, _ = _place(clean, "local")
    _redirect(node, client, Direction.EGRESS)
    with inside(node.namespace):
        with socket.create_server(("", PORT)):
            assert client.is_refused(server.address, TCP_PORT)
    with transparent_proxy(node, Direction.INGRESS, PORT):
        assert client.is_refused(server.address, TCP_PORT)
