# SPDX-License-Identifier: Apache-2.0
"""Envoy in one node, kept as the node's keeper does, and pods whose connections go to it."""

from __future__ import annotations

import contextlib
import http.client
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from agent.datapath.layout import Direction, EndpointFlag, PolicyKey, PolicyValue
from agent.envoy_binary import find_envoy
from agent.last_error import last_error
from agent.proxy.envoy_config import bootstrap, listeners_file
from agent.proxy.listening import listening_ports
from agent.proxy_files import BOOTSTRAP, ENVOY_LOG, LISTENERS
from agent.proxykeeper.envoy import EnvoyProgram
from agent.proxykeeper.kept_process import KeptProcess
from agent.shared_directory import make_enterable
from meshkit.atomic import write_atomic
from meshpolicy.proxy_ports import Listener
from tests.integration.datapath.datapath_topology import POD_MTU, Node, Pod
from tests.integration.datapath.kept_proxy import kept
from tests.packet.datapath_host import inside
from tests.support.leftovers import own_name

WEB_PORT, PORT = 8081, 14000
_ENFORCE = {Direction.EGRESS: EndpointFlag.ENFORCE_EGRESS, Direction.INGRESS: EndpointFlag.ENFORCE_INGRESS}


class NodeEnvoy:
    """Envoy in one node, as its agent sees it."""

    def __init__(self, node: Node, directory: Path) -> None:
        self._node, self.directory = node, directory
        make_enterable(directory)
        (directory / BOOTSTRAP).write_text(bootstrap(str(directory), POD_MTU))

    @contextlib.contextmanager
    def running(self) -> Iterator[KeptProcess]:
        """As long as it is kept."""
        path = find_envoy("")
        assert path is not None
        with kept(EnvoyProgram(path, self.directory), self._node.namespace) as process:
            yield process

    def last_words(self) -> str:
        return last_error(self.directory / ENVOY_LOG)

    def configure(self, listeners: dict[int, Listener]) -> None:
        write_atomic(self.directory / LISTENERS, listeners_file(listeners, str(self.directory), POD_MTU), 0o644)

    def is_listening(self, ports: set[int], timeout_s: float = 10.0) -> bool:
        found: list[set[int]] = []

        def look() -> None:
            with inside(self._node.namespace):
                found.append(listening_ports())

        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            look()
            if ports <= found[-1]:
                return True
            time.sleep(0.02)
        return False


@contextlib.contextmanager
def envoy_of(node: Node, listeners: dict[int, Listener]) -> Iterator[NodeEnvoy]:
    with kept_envoy(node, listeners) as (made, _):
        yield made


@contextlib.contextmanager
def kept_envoy(node: Node, listeners: dict[int, Listener]) -> Iterator[tuple[NodeEnvoy, KeptProcess]]:
    with tempfile.TemporaryDirectory(dir="/run", prefix=own_name("proxy")) as parent:  # where nobody may enter
        made = NodeEnvoy(node, Path(parent) / "proxy")
        made.configure(listeners)
        with made.running() as process:
            assert made.is_listening(set(listeners)), (made.directory / ENVOY_LOG).read_text()
            yield made, process


def redirect(node: Node, pod: Pod, direction: Direction) -> None:
    """What the pod does, or gets, on the web port goes to the proxy; the rest is allowed."""
    entries = [
        (PolicyKey(pod.endpoint_id, direction, 0), PolicyValue(False, 1, 1)),
        (PolicyKey(pod.endpoint_id, direction, 0, 6, WEB_PORT, 16), PolicyValue(False, 2, 2, PORT)),
    ]
    node.maps.policy.update(entries)
    node.endpoint(pod, _ENFORCE[direction])


def connection(pod: Pod, address: str) -> http.client.HTTPConnection:
    made = http.client.HTTPConnection(address, WEB_PORT, timeout=5)
    made.sock = pod.connect(address, WEB_PORT, 5)
    made.auto_open = 0  # a connection of its own making would not be the pod's
    return made


def ask(
    made: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, bytes]:
    made.request(method, path, body, headers)
    answer = made.getresponse()
    return answer.status, answer.read()
