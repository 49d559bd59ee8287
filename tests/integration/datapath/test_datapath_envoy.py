# SPDX-License-Identifier: Apache-2.0
"""HTTP rules by Envoy itself: what is allowed and denied on real connections, and what holds when it is killed."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agent.datapath.config import OVERLAY_DEVICE, AttachMode
from agent.datapath.layout import Direction, PolicyKey, PolicyValue
from agent.datapath.proxy_routes import prepare_stack, take_any_source
from agent.proxy.access_log import LONGEST_BYTES, AccessLog
from agent.proxy_files import ACCESS_LOG, BOOTSTRAP
from agent.proxykeeper.launch import LARGEST_FILE_BYTES
from meshpolicy import Direction as PolicyDirection
from meshpolicy.http_rule import HttpRule
from meshpolicy.proxy_ports import Listener
from tests.integration.datapath.datapath_topology import Topology
from tests.integration.datapath.dns_node import wait_until
from tests.integration.datapath.masquerade import masquerading
from tests.integration.datapath.node_envoy import PORT, WEB_PORT, ask, connection, envoy_of, kept_envoy, redirect
from tests.packet.datapath_host import inside, run

# how programs are attached is test_datapath_proxy's matter
pytestmark = [
    pytest.mark.root,
    pytest.mark.parametrize("mesh", [(AttachMode.TCX, True)], indirect=True, scope="module"),
]
GRPC_PORT, NODE_PORT, BALANCER_PORT = 8082, 30081, 30082
SERVICE = "172.20.9.9"
RULES = frozenset(
    (HttpRule("GET", "/client-ip"), HttpRule("GET", "/large"), HttpRule("POST", "/.*", headers=(("x-key", "a"),)))
)
DENIED = b"Access denied\r\n"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.headers["Upgrade"] == "websocket":
            self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
            while data := self.connection.recv(4096):
                self.connection.sendall(data)
            return
        self._answer(b"x" * 500_000 if self.path == "/large" else self.client_address[0].encode())

    def do_POST(self) -> None:
        self._answer(str(len(self.rfile.read(int(self.headers["Content-Length"])))).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base's
        return


@pytest.fixture
def web(clean: Topology) -> Iterator[Topology]:
    """Every pod serves HTTP."""
    servers = []
    for pod in clean.pods():
        with inside(pod.namespace):
            servers.append(ThreadingHTTPServer(("", WEB_PORT), _Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()
    yield clean
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("direction", list(Direction))
def test_requests_are_judged_one_by_one_and_the_server_sees_the_client(web: Topology, direction: Direction) -> None:
    client, server = web.nodes[0].pods[0], web.nodes[2].pods[0]
    node, pod = (web.nodes[0], client) if direction is Direction.EGRESS else (web.nodes[2], server)
    redirect(node, pod, direction)
    with envoy_of(node, {PORT: Listener(PolicyDirection(direction), RULES)}):
        made = connection(client, server.address)
        with contextlib.closing(made):
            assert ask(made, "GET", "/client-ip") == (200, client.address.encode())
            assert ask(made, "GET", "/public") == (403, DENIED)
            assert ask(made, "GET", "/client-ip?x=1") == (403, DENIED)
            assert ask(made, "POST", "/client-ip", **{"X-Key": "b"}) == (403, DENIED)
            assert ask(made, "GET", "/client-ip") == (200, client.address.encode()), "the connection goes on"
            assert ask(made, "GET", "/x/../client-ip")[0] == 200, "as the server would be asked"
            assert ask(made, "GET", "/large") == (200, b"x" * 500_000)
            assert ask(made, "POST", "/up", b"y" * 300_000, **{"X-Key": "a"}) == (200, b"300000")


def test_a_node_that_masquerades_its_pods_does_not_rename_them_in_the_mesh(web: Topology) -> None:
    client, server = web.nodes[0].pods[0], web.nodes[2].pods[0]
    redirect(web.nodes[0], client, Direction.EGRESS)
    with envoy_of(web.nodes[0], {PORT: Listener(PolicyDirection.EGRESS, RULES)}), masquerading(web.nodes[0]):
        for _ in range(3):
            with contextlib.closing(connection(client, server.address)) as made:
                assert ask(made, "GET", "/client-ip") == (200, client.address.encode())
                assert ask(made, "GET", "/large") == (200, b"x" * 500_000)
                assert ask(made, "GET", "/public") == (403, DENIED)


def test_what_the_nodes_own_proxy_leads_to_a_pod_is_judged_and_answered(web: Topology) -> None:
    """By rules like those of kube-proxy: a port of the node, with and without the sender's address, and a service's address."""
    near, node = web.nodes[3], web.nodes[2]
    server, client = node.pods
    changed = f"dnat to {server.address}:{WEB_PORT}"
    rules = f"tcp dport {{ {NODE_PORT}, {BALANCER_PORT} }} {changed}; ip daddr {SERVICE} tcp dport 80 {changed};"
    hidden = f"tcp dport {WEB_PORT} ct original proto-dst {NODE_PORT} masquerade;"
    hooks = ("in", "prerouting priority dstnat", rules), ("out", "postrouting priority srcnat", hidden)
    chains = "; ".join(f"chain {name} {{ type nat hook {place}; {text} }}" for name, place, text in hooks)
    run("ip", "netns", "exec", node.namespace, "nft", f"table ip ports {{ {chains}; }}")
    try:
        redirect(node, server, Direction.INGRESS)
        with inside(node.namespace):
            assert prepare_stack() == ""
        with envoy_of(node, {PORT: Listener(PolicyDirection.INGRESS, RULES)}):
            for namespace, address, port, source in (
                (near.namespace, node.address, NODE_PORT, node.address),
                (near.namespace, node.address, BALANCER_PORT, near.address),
                (client.namespace, SERVICE, 80, client.address),
            ):
                with contextlib.closing(http.client.HTTPConnection(address, port)) as made:
                    with inside(namespace):
                        made.sock = socket.create_connection((address, port), 5)
                    assert ask(made, "GET", "/client-ip") == (200, source.encode())
                    assert ask(made, "GET", "/large") == (200, b"x" * 500_000)
                    assert ask(made, "GET", "/public") == (403, DENIED)
    finally:
        run("ip", "netns", "exec", node.namespace, "nft", "delete", "table", "ip", "ports")


@pytest.mark.parametrize("strictness", [1, 2])
def test_a_node_that_checks_the_way_back_takes_what_is_handed_to_its_proxy(web: Topology, strictness: int) -> None:
    """On all its devices; 1 is what distributions of Red Hat's set, 2 those with systemd's settings, device by device."""
    near, node, far = web.nodes[3], web.nodes[2], web.nodes[0]
    server = node.pods[0]
    devices = ("all", "eth0", "lxca", "lxcb")
    check = [f"net.ipv4.conf.{name}.rp_filter={strictness}" for name in devices]
    with inside(node.namespace):
        overlay = (socket.if_nametoindex(OVERLAY_DEVICE), OVERLAY_DEVICE)
        run("sysctl", "-qw", *check)
        take_any_source(*overlay)
    try:
        redirect(node, server, Direction.INGRESS)
        with envoy_of(node, {PORT: Listener(PolicyDirection.INGRESS, RULES)}):
            for client in (near.pods[0], far.pods[0], node.pods[1]):
                with contextlib.closing(connection(client, server.address)) as made:
                    assert ask(made, "GET", "/client-ip") == (200, client.address.encode())
                    assert ask(made, "GET", "/public") == (403, DENIED)
        node.endpoint(server)
        redirect(node, node.pods[1], Direction.EGRESS)
        with envoy_of(node, {PORT: Listener(PolicyDirection.EGRESS, RULES)}):
            for target in (near.pods[0], far.pods[0], server):
                with contextlib.closing(connection(node.pods[1], target.address)) as made:
                    assert ask(made, "GET", "/client-ip") == (200, node.pods[1].address.encode())
                    assert ask(made, "GET", "/public") == (403, DENIED)
    finally:
        with inside(node.namespace):
            run("sysctl", "-qw", *(f"net.ipv4.conf.{name}.rp_filter=0" for name in devices))
            take_any_source(*overlay)
            run("ip", "address", "flush", "dev", OVERLAY_DEVICE)


def test_requests_of_the_first_version_are_judged_too(web: Topology) -> None:
    """What nginx and health checks of balancers send by default."""
    client, server = web.nodes[0].pods[0], web.nodes[0].pods[1]
    redirect(web.nodes[0], client, Direction.EGRESS)
    with envoy_of(web.nodes[0], {PORT: Listener(PolicyDirection.EGRESS, RULES)}):
        for path, code in (("/client-ip", b"200"), ("/public", b"403")):
            with client.connect(server.address, WEB_PORT, 5) as made:
                made.sendall(f"GET {path} HTTP/1.0\r\nHost: web\r\n\r\n".encode())
                assert made.recv(4096).split()[1] == code


def test_a_websocket_is_opened_where_its_request_is_allowed(web: Topology) -> None:
    client, server = web.nodes[0].pods[0], web.nodes[0].pods[1]
    redirect(web.nodes[0], client, Direction.EGRESS)
    upgrade = "Host: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n"
    with envoy_of(web.nodes[0], {PORT: Listener(PolicyDirection.EGRESS, RULES)}):
        with client.connect(server.address, WEB_PORT, 5) as made:
            made.sendall(f"GET /client-ip HTTP/1.1\r\n{upgrade}".encode())
            assert made.recv(4096).split()[1] == b"101"
            made.sendall(b"GET /public HTTP/1.1\r\n\r\n")
            assert made.recv(4096) == b"GET /public HTTP/1.1\r\n\r\n", "a message, no request"
        with client.connect(server.address, WEB_PORT, 5) as made:
            made.sendall(f"GET /public HTTP/1.1\r\n{upgrade}".encode())
            assert made.recv(4096).split()[1] == b"403"


def test_calls_of_grpc_are_requests(web: Topology) -> None:
    client, server = web.nodes[0].pods[0], web.nodes[2].pods[0]
    redirect(web.nodes[0], client, Direction.EGRESS)
    rules = frozenset((HttpRule("POST", "/shop[.]Cart/(Get|Watch)"),))
    program = (sys.executable, "-m", "tests.integration.datapath.grpc_calls")
    serve = ("ip", "netns", "exec", server.namespace, *program, "serve", str(GRPC_PORT))
    call = ("ip", "netns", "exec", client.namespace, *program, "call", f"{server.address}:{GRPC_PORT}")
    with subprocess.Popen(serve, stdout=subprocess.PIPE) as serving:
        try:
            assert serving.stdout is not None
            assert serving.stdout.readline() == b"ready\n"
            key = PolicyKey(client.endpoint_id, Direction.EGRESS, 0, 6, GRPC_PORT, 16)
            web.nodes[0].maps.policy.update([(key, PolicyValue(False, 2, 2, PORT))])
            with envoy_of(web.nodes[0], {PORT: Listener(PolicyDirection.EGRESS, rules)}):
                called = subprocess.run(call, capture_output=True, check=True, timeout=30)
        finally:
            serving.kill()
    assert called.stdout.decode().splitlines() == ["Get OK", "Watch OK OK OK", "Delete PERMISSION_DENIED"]


@pytest.mark.parametrize(
    "raw",
    [
        (
            b"GET /client-ip HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"0\r\n\r\nGET /public HTTP/1.1\r\n\r\n"
        ),
        b"GET /client-ip HTTP/1.1\r\nHost: x\r\nX: a\nGET: b\r\nTransfer-Encoding : chunked\r\n\r\n",
        b"GET /client-ip HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"CONNECT /client-ip HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x00\x10no http at all\r\n\r\n",
    ],
)
def test_what_is_malformed_reaches_no_server(web: Topology, raw: bytes) -> None:
    client, server = web.nodes[0].pods[0], web.nodes[0].pods[1]
    redirect(web.nodes[0], client, Direction.EGRESS)
    with envoy_of(web.nodes[0], {PORT: Listener(PolicyDirection.EGRESS, RULES)}):
        with client.connect(server.address, WEB_PORT, 5) as made:
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                made.sendall(raw)
                answer = made.recv(4096)
            assert b" 200 " not in answer.split(b"\r\n")[0]


def test_it_has_no_rights_but_one_and_is_back_after_it_was_killed(web: Topology) -> None:
    node, client, server = web.nodes[0], web.nodes[0].pods[0], web.nodes[0].pods[1]
    redirect(node, client, Direction.EGRESS)
    with kept_envoy(node, {PORT: Listener(PolicyDirection.EGRESS, RULES)}) as (envoy, process):
        status = Path(f"/proc/{process.state.pid}/status").read_text().split("\n")
        facts = {line.partition(":")[0]: line.partition(":")[2].split() for line in status if ":" in line}
        assert set(facts["Uid"]) == {"65534"}
        assert {int(facts[name][0], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {1 << 12}
        assert facts["NoNewPrivs"] == ["1"]
        made = connection(client, server.address)
        assert ask(made, "GET", "/client-ip")[0] == 200
        envoy.configure(
            {
                PORT: Listener(PolicyDirection.EGRESS, RULES),
                PORT + 1: Listener(PolicyDirection.EGRESS, frozenset((HttpRule("PUT"),))),
            }
        )
        assert envoy.is_listening({PORT, PORT + 1})
        assert ask(made, "GET", "/client-ip")[0] == 200, "connections of a listener that stays go on"
        made.close()
        first = process.state.pid
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: process.state.pid not in (0, first))
        assert envoy.is_listening({PORT})
        with contextlib.closing(connection(client, server.address)) as fresh:
            assert ask(fresh, "GET", "/client-ip")[0] == 200
        (envoy.directory / BOOTSTRAP).unlink()
        wait_until(lambda: not process.state.pid)
        assert client.is_refused(server.address, WEB_PORT)
        assert client.ask(server.address, 8080).startswith(server.name), "other ports are not concerned"


@pytest.mark.timeout(60)
def test_one_that_stands_still_is_told_of_and_replaced(web: Topology) -> None:
    node, client, server = web.nodes[0], web.nodes[0].pods[0], web.nodes[0].pods[1]
    redirect(node, client, Direction.EGRESS)
    with kept_envoy(node, {PORT: Listener(PolicyDirection.EGRESS, RULES)}) as (envoy, process):
        first = process.state.pid
        time.sleep(1)  # it was asked, and has answered
        os.kill(first, signal.SIGSTOP)
        wait_until(lambda: process.state.is_silent)
        assert process.state == (first, True, "Envoy stands still: it answers nothing")
        wait_until(lambda: process.state.pid not in (0, first), 15.0)
        assert envoy.is_listening({PORT})
        with contextlib.closing(connection(client, server.address)) as fresh:
            assert ask(fresh, "GET", "/client-ip")[0] == 200


def test_requests_go_on_where_its_log_is_full_and_nobody_reads_it(web: Topology) -> None:
    node, client, server = web.nodes[0], web.nodes[0].pods[0], web.nodes[0].pods[1]
    redirect(node, client, Direction.EGRESS)
    with envoy_of(node, {PORT: Listener(PolicyDirection.EGRESS, RULES)}) as envoy:
        log = envoy.directory / ACCESS_LOG
        os.truncate(log, LARGEST_FILE_BYTES)
        with contextlib.closing(connection(client, server.address)) as made:
            for _ in range(5):
                assert ask(made, "GET", "/client-ip")[0] == 200
                time.sleep(0.1)  # twice the time between its writes
            assert log.stat().st_size == LARGEST_FILE_BYTES
            reader = AccessLog(log)
            assert not reader.read()
            deadline = time.monotonic() + 10
            while not (seen := reader.read()) and time.monotonic() < deadline:
                assert ask(made, "GET", "/client-ip")[0] == 200
                time.sleep(0.1)
            assert seen[0]["path"] == "/client-ip"
            assert log.stat().st_size < LONGEST_BYTES


def test_a_listener_that_envoy_refuses_costs_no_other(web: Topology) -> None:
    node, client, server = web.nodes[0], web.nodes[0].pods[0], web.nodes[0].pods[1]
    redirect(node, client, Direction.EGRESS)
    with envoy_of(node, {PORT: Listener(PolicyDirection.EGRESS, RULES)}) as envoy:
        bad = Listener(PolicyDirection.EGRESS, frozenset((HttpRule("(?!x)"),)))
        envoy.configure(
            {
                PORT: Listener(PolicyDirection.EGRESS, RULES),
                PORT + 1: bad,
                PORT + 2: Listener(PolicyDirection.INGRESS, RULES),
            }
        )
        assert envoy.is_listening({PORT, PORT + 2})
        assert not envoy.is_listening({PORT + 1}, 0.1)
        assert "invalid perl operator" in envoy.last_words()
        with contextlib.closing(connection(client, server.address)) as made:
            assert ask(made, "GET", "/client-ip")[0] == 200
