# SPDX-License-Identifier: Apache-2.0
"""`make bench SUITE=l7`: what a rule about requests or names costs, against an Envoy by hand and no policy, in one run.

By hand: the same Envoy with the same filter of rules, which the client asks at the node's address. Rounds alternate, and the
figures are medians; client, proxies and server share the machine. Requests each second are of so many connections at once
that a CPU is always busy; delays are of one connection.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import orjson
from dnslib import DNSRecord

from agent.datapath.config import AttachMode
from agent.datapath.layout import Direction as Side
from agent.datapath.layout import EndpointFlag, PolicyKey, PolicyValue
from agent.envoy_binary import find_envoy
from agent.proxy.envoy_config import bootstrap, listeners_file
from agent.proxy.listening import listening_ports
from agent.proxy_files import BOOTSTRAP, LISTENERS
from agent.proxykeeper.envoy import EnvoyProgram
from agent.shared_directory import make_enterable
from meshkit.atomic import write_atomic
from meshpolicy import Direction
from meshpolicy.http_rule import HttpRule
from meshpolicy.proxy_ports import Listener
from tests.bench.l7.page_server import served_pages
from tests.integration.datapath.datapath_topology import POD_MTU, TCP_PORT, Node, Pod, Topology, exchange, topology
from tests.integration.datapath.dns_node import DnsNode, redirect, served, wait_until
from tests.integration.datapath.kept_proxy import kept
from tests.packet.datapath_host import bpffs, build_objects, inside

WEB_PORT: Final = 8081
PORT: Final = 14000
BY_HAND_PORT: Final = 15000
RULES: Final = frozenset((HttpRule("GET", "/client-ip"),))
REQUEST: Final = b"GET /client-ip HTTP/1.1\r\nHost: web\r\n\r\n"
TARGETS: Final = {
    "requests_of_by_hand": "at least 0.9", "added_p50_ms": "at most 0.3", "l4_with_of_without": "at least 0.97",
    "in_force_ms": "at most 500", "dns_added_p50_ms": "at most 0.5",
}  # fmt: skip
"""Of the figures, by their names."""


def run(rounds: int = 5, count: int = 400) -> dict[str, Any]:
    """The figures, with what is wanted of them."""
    build_objects()
    with (
        tempfile.TemporaryDirectory(dir="/run", prefix="l7-bench") as work,
        bpffs(Path(work) / "bpf") as pins,
        topology(f"dpt-l7-{os.getpid()}", pins, AttachMode.AUTO) as made,
    ):
        figures = _http(made, Path(work) / "proxy", rounds, count) | _dns(made, Path(work) / "dns", rounds, count)
    return {"measured": figures, "wanted": TARGETS}


def _http(made: Topology, directory: Path, rounds: int, count: int) -> dict[str, float]:
    node, client, server = made.nodes[0], made.nodes[0].pods[0], made.nodes[0].pods[1]
    with served_pages(server, WEB_PORT), _envoy(node, directory, server):
        plain_s = [_exchanges(client, server, count) for _ in range(rounds)]
        began = time.monotonic()
        listener = Listener(Direction.EGRESS, RULES)
        write_atomic(directory / LISTENERS, _listeners(directory, {PORT: listener}), 0o644)
        wait_until(lambda: PORT in _listening(node))
        _redirect(node, client)
        in_force_s = time.monotonic() - began
        by_rule, by_hand, l4 = list[float](), list[float](), list[float]()
        rates_by_rule, rates_by_hand = list[float](), list[float]()
        for _ in range(rounds):
            by_rule.append(_requests(client, server.address, WEB_PORT, count))
            by_hand.append(_requests(client, node.address, BY_HAND_PORT, count))
            l4.append(_exchanges(client, server, count))
            rates_by_rule.append(_rate(client, server.address, WEB_PORT))
            rates_by_hand.append(_rate(client, node.address, BY_HAND_PORT))
    rule_s, hand_s, without_s, with_s = map(statistics.median, (by_rule, by_hand, plain_s, l4))
    rate, rate_by_hand = statistics.median(rates_by_rule), statistics.median(rates_by_hand)
    return {
        "requests_per_s": round(rate), "by_hand_per_s": round(rate_by_hand),
        "requests_of_by_hand": round(rate / rate_by_hand, 3),
        "p50_ms": round(rule_s * 1000, 3), "added_p50_ms": round((rule_s - hand_s) * 1000, 3),
        "l4_with_of_without": round(without_s / with_s, 3), "in_force_ms": round(in_force_s * 1000, 1),
    }  # fmt: skip


def _dns(made: Topology, directory: Path, rounds: int, count: int) -> dict[str, float]:
    node, client, server = made.nodes[0], made.nodes[0].pods[0], made.nodes[0].pods[1]
    proxy = DnsNode(node, directory)
    proxy.write()
    with served(server), proxy.running(), proxy.linked():
        direct, proxied = list[float](), list[float]()
        for _ in range(rounds):
            node.maps.policy.delete([key for key, _ in node.maps.policy.items()])
            node.endpoint(client)
            direct.append(_names(client, server, count))
            redirect(node, client)
            proxied.append(_names(client, server, count))
    added_s = statistics.median(proxied) - statistics.median(direct)
    return {"dns_p50_ms": round(statistics.median(proxied) * 1000, 3), "dns_added_p50_ms": round(added_s * 1000, 3)}


@contextlib.contextmanager
def _envoy(node: Node, directory: Path, server: Pod) -> Iterator[None]:
    path = find_envoy("")
    assert path is not None
    make_enterable(directory)
    (directory / BOOTSTRAP).write_bytes(_start(directory, server))
    write_atomic(directory / LISTENERS, _listeners(directory, {}), 0o644)
    with kept(EnvoyProgram(path, directory), node.namespace):
        wait_until(lambda: _accepts(node, BY_HAND_PORT), 30.0)
        yield


def _start(directory: Path, server: Pod) -> bytes:
    """What Envoy is started with, and the server of the listener by hand."""
    known = orjson.loads(bootstrap(str(directory), POD_MTU))
    place = {"address": {"socket_address": {"address": server.address, "port_value": WEB_PORT}}}
    ends = {"cluster_name": "by-hand", "endpoints": [{"lb_endpoints": [{"endpoint": place}]}]}
    known["static_resources"]["clusters"].append({"name": "by-hand", "type": "STATIC", "load_assignment": ends})
    return orjson.dumps(known)


def _listeners(directory: Path, listeners: dict[int, Listener]) -> bytes:
    """Ours, and one by hand: at every address of the node, with the filter of rules, to one server."""
    known = orjson.loads(
        listeners_file({**listeners, BY_HAND_PORT: Listener(Direction.EGRESS, RULES)}, str(directory), POD_MTU)
    )
    for found in known["resources"]:
        if found["address"]["socket_address"]["port_value"] == BY_HAND_PORT:
            found["address"]["socket_address"]["address"] = "0.0.0.0"
            found.update(transparent=False, socket_options=[], listener_filters=[])
            manager = found["filter_chains"][0]["filters"][0]["typed_config"]
            manager["route_config"]["virtual_hosts"][0]["routes"][-1]["route"]["cluster"] = "by-hand"
    return orjson.dumps(known)


def _redirect(node: Node, pod: Pod) -> None:
    entries = [
        (PolicyKey(pod.endpoint_id, Side.EGRESS, 0), PolicyValue(False, 1, 1)),
        (PolicyKey(pod.endpoint_id, Side.EGRESS, 0, 6, WEB_PORT, 16), PolicyValue(False, 2, 2, PORT)),
    ]
    node.maps.policy.update(entries)
    node.endpoint(pod, EndpointFlag.ENFORCE_EGRESS)


def _requests(client: Pod, address: str, port: int, count: int) -> float:
    """Seconds of the median request."""
    with client.connect(address, port, 5) as made:

        def ask() -> None:
            made.sendall(REQUEST)
            assert made.recv(4096).startswith(b"HTTP/1.1 200 ")

        return _median_s(ask, count)


def _rate(client: Pod, address: str, port: int, connections: int = 32, seconds: float = 1.0) -> float:
    """Requests each second over so many connections, each of which asks again as soon as it is answered."""
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(connections):
            made = stack.enter_context(client.connect(address, port, 5))
            selector.register(made, selectors.EVENT_READ, made)
            made.sendall(REQUEST)
        answered, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            for key, _ in selector.select(1):
                made = key.data
                assert made.recv(4096).startswith(b"HTTP/1.1 200 ")
                made.sendall(REQUEST)
                answered += 1
        return answered / (time.perf_counter() - began)


def _exchanges(client: Pod, server: Pod, count: int) -> float:
    """Seconds of the median exchange on a port without rules."""
    with client.connect(server.address, TCP_PORT, 5) as made:
        return _median_s(lambda: exchange(made), count)


def _names(client: Pod, server: Pod, count: int) -> float:
    question = DNSRecord.question("google.com").pack()
    with client.datagram() as made:
        made.connect((server.address, 53))

        def ask() -> None:
            made.send(question)
            assert made.recv(4096)

        return _median_s(ask, count)


def _median_s(ask: Callable[[], object], count: int) -> float:
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        ask()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _listening(node: Node) -> set[int]:
    with inside(node.namespace):
        return listening_ports()


def _accepts(node: Node, port: int) -> bool:
    try:
        with inside(node.namespace), socket.create_connection(("127.0.0.1", port), 1):
            return True
    except OSError:
        return False
