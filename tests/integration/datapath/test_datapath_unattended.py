# SPDX-License-Identifier: Apache-2.0
"""A node whose agent is gone for good: the node's own service translation takes new connections, with real sockets."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from agent.datapath.config import AttachMode
from agent.datapath.flow_layout import HeartbeatKey, HeartbeatValue
from tests.integration.datapath.datapath_topology import TCP_PORT, Node, Topology, exchange, topology
from tests.packet.datapath_host import bpffs, build_objects, run
from tests.support.leftovers import own_name

pytestmark = pytest.mark.root
VIP, LIMIT_S = "172.20.1.7", 20


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    build_objects()
    with (
        bpffs(tmp_path_factory.mktemp("unattended") / "bpf") as pins,
        topology(own_name("unattended"), pins, AttachMode.AUTO, unattended_after_s=LIMIT_S) as made,
    ):
        yield made


@pytest.fixture
def kube_proxy(mesh: Topology) -> Iterator[Topology]:
    """The first node's stack translates the service to its own second pod."""
    node = mesh.nodes[0]
    rules = (
        "add table ip proxy; add chain ip proxy in { type nat hook prerouting priority -100; }; "
        f"add rule ip proxy in ip daddr {VIP} tcp dport 80 dnat to {node.pods[1].address}:{TCP_PORT}"
    )
    run("ip", "netns", "exec", node.namespace, "nft", rules)
    try:
        yield mesh
    finally:
        run("ip", "netns", "exec", node.namespace, "nft", "delete table ip proxy")


def _last_beat(node: Node, ago_s: float) -> None:
    beaten_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - int(ago_s * 10**9)
    node.maps.heartbeat.update([(HeartbeatKey(), HeartbeatValue(max(0, beaten_ns)))])


def test_the_stack_takes_new_connections_and_open_ones_stay(kube_proxy: Topology) -> None:
    node, remote = kube_proxy.nodes[0], kube_proxy.nodes[3].pods[0]
    client, local = node.pods
    kube_proxy.service(VIP, [remote])
    _last_beat(node, 0)
    with client.connect(VIP, 80) as made:
        assert exchange(made).startswith(remote.name)
        _last_beat(node, LIMIT_S + 3)
        assert client.ask(VIP, 80).startswith(local.name)
        assert client.ask(local.address, TCP_PORT).startswith(local.name)
        assert exchange(made).startswith(remote.name)
    _last_beat(node, 0)
    assert client.ask(VIP, 80).startswith(remote.name)
