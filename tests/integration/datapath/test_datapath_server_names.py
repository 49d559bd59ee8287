# SPDX-License-Identifier: Apache-2.0
"""Rules about servers' names by Envoy itself: real TLS, what does not begin so, and rules about requests on the same port."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.datapath.config import AttachMode
from agent.datapath.layout import Direction
from agent.proxy.access_log import AccessLog
from agent.proxy_files import ACCESS_LOG
from certs import profile
from certs.authority import Authority
from meshpolicy import Direction as PolicyDirection
from meshpolicy.http_rule import HttpRule, HttpRules
from meshpolicy.proxy_ports import Listener
from meshpolicy.server_name import EVERY_CONNECTION, ServerNames, server_name
from tests.integration.datapath.datapath_topology import Node, Pod, Topology
from tests.integration.datapath.dns_node import wait_until
from tests.integration.datapath.node_envoy import PORT, WEB_PORT, envoy_of, redirect
from tests.packet.datapath_host import inside

pytestmark = [
    pytest.mark.root,
    pytest.mark.parametrize("mesh", [(AttachMode.TCX, True)], indirect=True, scope="module"),
]
NAMES = frozenset(map(server_name, ("shop.example", "*.eu.example", "api-*.example", "**.deep.example")))
GET = b"GET /ok HTTP/1.1\r\nHost: shop.example\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BANNER = b"220 ready\r\n"


class _Server:
    """Answers a request inside TLS and without it; `greeted` connections are told something first. Counts connections."""

    def __init__(self, pod: Pod, context: ssl.SSLContext) -> None:
        self._context, self.count, self.is_greeting = context, 0, False
        with inside(pod.namespace):
            self._listener = socket.create_server(("", WEB_PORT))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                made, _ = self._listener.accept()
                self.count += 1
                threading.Thread(target=self._serve, args=(made,), daemon=True).start()

    def _serve(self, made: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.enter_context(made)
            if self.is_greeting:
                made.sendall(BANNER)
            if made.recv(1, socket.MSG_PEEK) == b"\x16":
                made = stack.enter_context(self._context.wrap_socket(made, server_side=True))
            while made.recv(65536):
                made.sendall(ANSWER)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture(scope="module")
def server_context(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    now_s = time.time()
    made = Authority.create("mesh CA", now_s, 30).issue(profile.remote("south"), now_s)
    pem = tmp_path_factory.mktemp("tls") / "pair.pem"
    pem.write_bytes(made.key_pem + made.cert_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


@pytest.fixture
def server(clean: Topology, server_context: ssl.SSLContext) -> Iterator[_Server]:
    made = _Server(clean.nodes[2].pods[0], server_context)
    yield made
    made.close()


def _tls(client: Pod, target: Pod, name: str | None) -> bytes:
    """What a request inside TLS is answered with; empty if the connection was closed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with client.connect(target.address, WEB_PORT, 5) as plain, contextlib.suppress(OSError):
        with context.wrap_socket(plain, server_hostname=name) as made:
            made.sendall(GET)
            return made.recv(4096)
    return b""


def _plain(client: Pod, target: Pod, said: bytes) -> bytes:
    with client.connect(target.address, WEB_PORT, 5) as made, contextlib.suppress(OSError):
        made.sendall(said)
        return made.recv(4096)
    return b""


def _listeners(direction: Direction, names: ServerNames, rules: HttpRules = frozenset()) -> dict[int, Listener]:
    return {PORT: Listener(PolicyDirection(direction), rules, servers=names)}


def _ends(mesh: Topology, direction: Direction) -> tuple[Pod, Pod, Node]:
    """A client and a server in two clusters, and the node whose policy it is."""
    client, target = mesh.nodes[0].pods[0], mesh.nodes[2].pods[0]
    node = mesh.nodes[0 if direction is Direction.EGRESS else 2]
    redirect(node, client if direction is Direction.EGRESS else target, direction)
    return client, target, node


@pytest.mark.parametrize("direction", list(Direction))
def test_tls_goes_to_servers_of_the_names_and_nothing_else_reaches_them(
    clean: Topology, server: _Server, direction: Direction
) -> None:
    client, target, node = _ends(clean, direction)
    with envoy_of(node, _listeners(direction, NAMES)):
        allowed = ("shop.example", "SHOP.example", "a.eu.example", "api-1.example", "api-.example", "a.b.deep.example")
        for name in allowed:
            assert _tls(client, target, name) == ANSWER, name
        assert server.count == len(allowed)
        denied = ("example", "x.shop.example", "shop.example.evil", "eu.example", "a.b.eu.example", "deep.example")
        for name in (*denied, "shopxexample", None):
            assert _tls(client, target, name) == b"", name
        for said in (GET, b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", b"\x16\x03\x01\xff\xff" + b"a" * 70_000):
            assert _plain(client, target, said) == b""
        assert server.count == len(allowed), "the others were closed before the server heard of them"


def test_a_hello_that_comes_in_pieces_is_read_whole(clean: Topology, server: _Server) -> None:
    client, target, node = _ends(clean, Direction.EGRESS)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with envoy_of(node, _listeners(Direction.EGRESS, NAMES)):
        for name, is_allowed in (("shop.example", True), ("other.example", False)):
            there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
            made = context.wrap_bio(back, there, server_hostname=name)
            with contextlib.suppress(ssl.SSLWantReadError):
                made.do_handshake()
            hello = there.read()
            with client.connect(target.address, WEB_PORT, 5) as plain:
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with contextlib.suppress(OSError):
                    for at in range(0, len(hello), 20):
                        plain.sendall(hello[at : at + 20])
                    answer = plain.recv(4096)
                    assert answer[:1] == (b"\x16" if is_allowed else b"")


def test_requests_without_tls_are_for_the_rules_about_requests(clean: Topology, server: _Server) -> None:
    client, target, node = _ends(clean, Direction.EGRESS)
    rules = frozenset((HttpRule("GET", "/ok"),))
    with envoy_of(node, _listeners(Direction.EGRESS, NAMES, rules)):
        assert _tls(client, target, "shop.example") == ANSWER
        assert _plain(client, target, GET).startswith(b"HTTP/1.1 200")
        count = server.count
        assert _plain(client, target, GET.replace(b"/ok", b"/no")).startswith(b"HTTP/1.1 403")
        assert _tls(client, target, "other.example") == b""
        assert _tls(client, target, None) == b""
        assert server.count == count
    with envoy_of(node, _listeners(Direction.EGRESS, frozenset((EVERY_CONNECTION,)), rules)):
        assert _tls(client, target, None) == ANSWER
        assert _plain(client, target, GET).startswith(b"HTTP/1.1 200")
        assert _plain(client, target, GET.replace(b"/ok", b"/no")).startswith(b"HTTP/1.1 403")


def test_where_every_connection_is_allowed_the_server_may_speak_first(clean: Topology, server: _Server) -> None:
    client, target, node = _ends(clean, Direction.EGRESS)
    server.is_greeting = True
    with envoy_of(node, _listeners(Direction.EGRESS, NAMES | {EVERY_CONNECTION})):
        with client.connect(target.address, WEB_PORT, 5) as made:
            assert made.recv(4096) == BANNER


def test_each_connection_is_told_of_once_with_its_name(clean: Topology, server: _Server, tmp_path: Path) -> None:
    client, target, node = _ends(clean, Direction.EGRESS)
    with envoy_of(node, _listeners(Direction.EGRESS, NAMES)) as envoy:
        log = AccessLog(envoy.directory / ACCESS_LOG)
        _tls(client, target, "shop.example")
        _tls(client, target, "other.example")
        found: list[tuple[str, str, str]] = []

        def told() -> bool:
            found.extend((str(r["server_name"]), str(r["verdict"]), str(r["event"])) for r in log.read())
            return len(found) >= 3

        wait_until(told)
        assert sorted(found) == [
            ("other.example", "denied", "TcpConnectionEnd"),
            ("shop.example", "allowed", "TcpConnectionEnd"),
            ("shop.example", "allowed", "TcpUpstreamConnected"),
        ]
