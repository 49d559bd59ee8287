# SPDX-License-Identifier: Apache-2.0
"""Silent connections with real sockets, and lifetimes short enough to wait for."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from agent.datapath.config import AttachMode, Lifetimes
from agent.datapath.layout import TICK_NS
from tests.integration.datapath.datapath_topology import Node, Topology, exchange, topology
from tests.packet.datapath_host import bpffs, build_objects, inside
from tests.support.connections import connections
from tests.support.leftovers import own_name

pytestmark = pytest.mark.root
VIP, NOBODY = "172.20.1.7", "192.0.2.1"
SHORT = Lifetimes(opening_s=1, closing_s=1, other_s=1)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    build_objects()
    with (
        bpffs(tmp_path_factory.mktemp("idle") / "bpf") as pins,
        topology(own_name("idle"), pins, AttachMode.AUTO, lifetimes=SHORT) as made,
    ):
        yield made


def _wait_for(condition: Callable[[], bool]) -> None:
    pause, deadline = threading.Event(), time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.1)


def _is_forgotten(node: Node, destination: str) -> bool:
    """The flow was tracked, and counts as absent now."""
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // TICK_NS
    lives = [value.lifetime for key, value in connections(node.maps) if key.destination == destination]
    assert lives
    return max(lives) < now


def _leave_half_open(mesh: Topology) -> None:
    """One SYN that nobody answers."""
    with inside(mesh.pods()[0].namespace), socket.socket() as made:
        made.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            made.connect((NOBODY, 80))


@pytest.mark.parametrize("backend", [1, 2, -1], ids=["same node", "other node", "other cluster"])
def test_a_connection_silent_for_longer_than_a_half_open_one_lives_goes_on(mesh: Topology, backend: int) -> None:
    client, target = mesh.pods()[0], mesh.pods()[backend]
    mesh.service(VIP, [target])
    with client.connect(VIP, 80) as made:
        assert exchange(made).startswith(target.name)
        _leave_half_open(mesh)
        _wait_for(lambda: _is_forgotten(mesh.nodes[0], NOBODY))
        assert exchange(made).startswith(target.name)
