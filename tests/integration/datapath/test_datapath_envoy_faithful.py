# SPDX-License-Identifier: Apache-2.0
"""What Envoy leaves as it was of requests that it allows, as a server's own socket receives them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from agent.datapath.config import AttachMode
from agent.datapath.layout import Direction
from agent.proxy.access_log import AccessLog
from agent.proxy_files import ACCESS_LOG
from meshpolicy import Direction as PolicyDirection
from meshpolicy.http_rule import HttpRule
from meshpolicy.proxy_ports import Listener
from tests.integration.datapath.datapath_topology import Topology
from tests.integration.datapath.dns_node import wait_until
from tests.integration.datapath.node_envoy import PORT, WEB_PORT, NodeEnvoy, envoy_of, redirect
from tests.integration.datapath.recorder import Recorder

pytestmark = [
    pytest.mark.root,
    pytest.mark.parametrize("mesh", [(AttachMode.TCX, True)], indirect=True, scope="module"),
]
RULES = frozenset((HttpRule("GET", "/ok"), HttpRule("POST", "/up")))


@pytest.fixture
def server(clean: Topology) -> Iterator[Recorder]:
    made = Recorder(clean.nodes[0].pods[1])
    yield made
    made.close()


@contextlib.contextmanager
def _between(mesh: Topology) -> Iterator[tuple[socket.socket, NodeEnvoy]]:
    client, asked = mesh.nodes[0].pods
    redirect(mesh.nodes[0], client, Direction.EGRESS)
    with envoy_of(mesh.nodes[0], {PORT: Listener(PolicyDirection.EGRESS, RULES)}) as envoy:
        with client.connect(asked.address, WEB_PORT, 5) as made:
            yield made, envoy


def test_what_a_gateway_says_of_its_client_stays_and_says_nothing_to_us(clean: Topology, server: Recorder) -> None:
    """A gateway in a pod ends TLS: a server that is told of plain HTTP would send the client there again, for ever."""
    said = (b"X-Forwarded-Proto: https", b"X-Forwarded-For: 192.0.2.7")
    with _between(clean) as (made, envoy):
        log = AccessLog(envoy.directory / ACCESS_LOG)
        made.sendall(b"\r\n".join((b"GET /ok HTTP/1.1\r\nHost: x", *said, b"", b"")))
        assert made.recv(4096).startswith(b"HTTP/1.1 200")
        lines = server.received.lower().split(b"\r\n")
        assert [lines.count(line.lower()) for line in said] == [1, 1]
        found = list[str]()
        wait_until(lambda: bool(found.extend(str(record["source"]) for record in log.read()) or found))
        assert [source.rpartition(":")[0] for source in found] == [clean.nodes[0].pods[0].address]


def test_the_server_says_whether_a_body_shall_come_and_policy_whether_it_may(clean: Topology, server: Recorder) -> None:
    expects = b"HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    server.says = b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n"
    with _between(clean) as (made, _):
        made.sendall(b"POST /up " + expects)
        assert made.recv(4096).startswith(b"HTTP/1.1 417")
    with _between(clean) as (made, _):
        made.sendall(b"POST /down " + expects)
        assert made.recv(4096).startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize("key", [b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n", b""])
def test_what_follows_a_websocket_that_the_server_does_not_open_is_no_request(
    clean: Topology, server: Recorder, key: bytes
) -> None:
    """A server that knows no WebSocket would take it for the connection's next one, which nobody has judged."""
    upgrade = b"GET /ok HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + key + b"\r\n"
    with _between(clean) as (made, _):
        made.sendall(upgrade + b"GET /secret HTTP/1.1\r\nHost: x\r\n\r\n")
        while made.recv(4096):
            pass
        assert b"/ok" in server.received
        assert b"/secret" not in server.received


def test_each_connection_of_a_pod_is_one_to_its_server_which_ends_soon_after_it(
    clean: Topology, server: Recorder
) -> None:
    """What an earlier connection has left may be one that policy ended without a word: the next request would wait for ever."""
    client, asked = clean.nodes[0].pods
    redirect(clean.nodes[0], client, Direction.EGRESS)
    with envoy_of(clean.nodes[0], {PORT: Listener(PolicyDirection.EGRESS, RULES)}):
        for count in range(1, 9):  # by both workers
            with client.connect(asked.address, WEB_PORT, 5) as made:
                for _ in range(2):
                    made.sendall(b"GET /ok HTTP/1.1\r\nHost: x\r\n\r\n")
                    assert made.recv(4096).startswith(b"HTTP/1.1 200")
            assert server.opened == count
        wait_until(lambda: server.ended == server.opened, 10.0)
