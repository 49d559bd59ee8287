# SPDX-License-Identifier: Apache-2.0
"""One pod that asks for all that its node's Envoy has keeps no other pod from it: real connections, sockets and requests."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from agent.datapath.config import AttachMode
from agent.datapath.layout import Direction
from agent.datapath.proxy_sockets import end_connections, proxy_connections
from agent.proxykeeper.pod_shares import Excess, PodShares
from meshkit.clock import SystemClock
from meshpolicy import Direction as PolicyDirection
from meshpolicy.http_rule import HttpRule
from meshpolicy.proxy_ports import Listener
from tests.integration.datapath.datapath_topology import Pod, Topology
from tests.integration.datapath.dns_node import wait_until
from tests.integration.datapath.node_envoy import PORT, WEB_PORT, envoy_of, redirect
from tests.packet.datapath_host import inside

pytestmark = [
    pytest.mark.root,
    pytest.mark.parametrize("mesh", [(AttachMode.TCX, True)], indirect=True, scope="module"),
]
RULES = frozenset((HttpRule("GET", "/held"), HttpRule("GET", "/")))
ONE_CLUSTERS_BOUND = 1024
"""Of requests and of connections, which Envoy has if it is not told otherwise, for all pods together."""
HALF = b"GET / HTTP/1.1\r\nHost: x\r\n"
SHARE = 40


class _Server:
    """Answers a request for / and keeps one for /held."""

    def __init__(self, pod: Pod) -> None:
        with inside(pod.namespace):
            self._listener = socket.create_server(("", WEB_PORT), backlog=2048)
        self.held: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                made, _ = self._listener.accept()
                if made.recv(4096).startswith(b"GET /held "):
                    self.held.append(made)
                    continue
                made.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                made.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for made in self.held:
            made.close()


@contextlib.contextmanager
def _open(pod: Pod, server: Pod, count: int, said: bytes) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            found.append(stack.enter_context(pod.connect(server.address, WEB_PORT, 5)))
            found[-1].sendall(said)
        yield found


def _is_answered(pod: Pod, server: Pod) -> bool:
    with pod.connect(server.address, WEB_PORT, 5) as made:
        made.sendall(HALF + b"\r\n")
        return made.recv(4096).startswith(b"HTTP/1.1 200")


@contextlib.contextmanager
def _shares(namespace: str) -> Iterator[None]:
    loop = asyncio.new_event_loop()
    shares = PodShares(SHARE, SystemClock(), lambda: True)

    def look() -> None:
        with inside(namespace), contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
            loop.run_until_complete(loop.shutdown_default_executor())

    task = loop.create_task(shares.run())
    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(10)
        loop.close()


@pytest.fixture
def servers(clean: Topology) -> Iterator[Topology]:
    """Both pods of the first node serve, and have rules for what they ask."""
    made = [_Server(pod) for pod in clean.nodes[0].pods]
    for pod in clean.nodes[0].pods:
        redirect(clean.nodes[0], pod, Direction.EGRESS)
    yield clean
    for server in made:
        server.close()


def test_requests_that_nobody_answers_take_no_place_of_other_pods(servers: Topology) -> None:
    node = servers.nodes[0]
    greedy, other = node.pods[0], node.pods[1]
    listeners = {PORT: Listener(PolicyDirection.EGRESS, RULES)}
    with (
        envoy_of(node, listeners),
        _open(greedy, other, ONE_CLUSTERS_BOUND + 50, b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n"),
    ):
        assert _is_answered(other, greedy)
        assert _is_answered(greedy, other)


def _is_ended(made: socket.socket) -> bool:
    made.setblocking(False)
    try:
        return made.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("direction", list(Direction))
def test_what_is_beyond_the_share_of_a_pod_is_ended_and_nothing_else(servers: Topology, direction: Direction) -> None:
    """The pod whose rules these are: who asks on egress, who is asked on ingress."""
    node = servers.nodes[0]
    first, other = node.pods
    for pod in node.pods:
        node.endpoint(pod)
        redirect(node, pod, direction)
    asks, asked = (first, other) if direction is Direction.EGRESS else (other, first)
    excess = Excess(SHARE)

    def look() -> None:
        with inside(node.namespace):
            end_connections(excess.find(proxy_connections()))

    with envoy_of(node, {PORT: Listener(PolicyDirection(direction), RULES)}):
        with _open(asks, asked, SHARE // 2, HALF) as early, _open(asked, asks, 5, HALF) as others:
            wait_until(lambda: _counts(node.namespace) == {first.address: SHARE // 2, other.address: 5})
            look()
            with _open(asks, asked, 2 * SHARE, HALF) as late:
                wait_until(lambda: _counts(node.namespace) == {first.address: 5 * SHARE // 2, other.address: 5})
                look()
                assert _counts(node.namespace) == {first.address: SHARE, other.address: 5}
                assert not any(map(_is_ended, [*early, *others]))
                assert sum(map(_is_ended, late)) == 2 * SHARE - SHARE // 2
                assert _is_answered(asked, asks)


def test_a_pod_that_goes_on_to_open_connections_is_kept_to_its_share(servers: Topology) -> None:
    node = servers.nodes[0]
    greedy, other = node.pods
    with envoy_of(node, {PORT: Listener(PolicyDirection.EGRESS, RULES)}), _shares(node.namespace):
        for _ in range(3):
            with _open(greedy, other, 2 * SHARE, HALF):
                wait_until(lambda: _counts(node.namespace) == {greedy.address: SHARE})
                assert _is_answered(other, greedy)
        wait_until(lambda: _counts(node.namespace) == {})
        assert _is_answered(greedy, other), "there is room again"


def _counts(namespace: str) -> dict[str, int]:
    found: dict[str, int] = {}
    with inside(namespace):
        for made in (made for made in proxy_connections() if not made.is_opened):
            found[made.endpoint] = found.get(made.endpoint, 0) + 1
    return found


def test_a_connection_that_ended_meanwhile_is_no_fault(servers: Topology) -> None:
    node = servers.nodes[0]
    with envoy_of(node, {PORT: Listener(PolicyDirection.EGRESS, RULES)}), _open(*node.pods, 2, HALF):
        with inside(node.namespace):
            wait_until(lambda: len(proxy_connections()) == 2)
            found = [made for made in proxy_connections() if not made.is_opened]
            assert end_connections(found) == 2
            assert end_connections(found) == 0
