# SPDX-License-Identifier: Apache-2.0
"""The overlay beside a VXLAN device of a CNI plugin, as flannel makes it on UDP 8472: on another port, or refused by name."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from agent.datapath.config import VXLAN_PORT, AttachMode, NodeConfig
from agent.datapath.errors import OverlayPortTakenError
from agent.datapath.loader import Datapath
from agent.datapath.netlink import ensure_overlay, remove_device
from tests.integration.datapath.datapath_topology import TCP_PORT, Topology, topology
from tests.packet.datapath_host import bpffs, build_objects, inside, run
from tests.support.leftovers import own_name

pytestmark = pytest.mark.root
CHOSEN = 8473
VIP = "172.20.1.7"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    """Nodes of both clusters whose overlay has a port of its own, and a VXLAN of their CNI beside it."""
    build_objects()
    with (
        bpffs(tmp_path_factory.mktemp("port") / "bpf") as pins,
        topology(own_name("port"), pins, AttachMode.AUTO, vxlan_port=CHOSEN) as made,
    ):
        for node in made.nodes:
            flannel = (
                "type",
                "vxlan",
                "id",
                "1",
                "local",
                node.address,
                "dev",
                "eth0",
                "dstport",
                str(VXLAN_PORT),
                "nolearning",
            )
            run("ip", "-n", node.namespace, "link", "add", "flannel.1", *flannel)
            number = node.cluster * 10 + node.number
            run("ip", "-n", node.namespace, "link", "set", "flannel.1", "address", f"02:00:0f:00:00:{number}", "up")
            run("ip", "-n", node.namespace, "address", "add", f"10.244.{number}.1/32", "dev", "flannel.1")
        yield made


def test_clusters_reach_each_other_through_the_chosen_port(clean: Topology) -> None:
    client, *_, far = clean.pods()
    assert client.ask(far.address, TCP_PORT) == f"{far.name} {client.address}"
    clean.service(VIP, [far])
    assert client.ask(VIP, 80) == f"{far.name} {client.address}"


def test_the_other_vxlan_goes_on(clean: Topology) -> None:
    """Static entries, as flannel writes them: packets of the node to another node's address in its network."""
    here, there = clean.nodes[0], clean.nodes[1]
    mine, theirs = (f"10.244.{n.cluster * 10 + n.number}.1" for n in (here, there))
    for node, other, address in ((here, there, theirs), (there, here, mine)):
        mac = f"02:00:0f:00:00:{other.cluster * 10 + other.number}"
        run("ip", "-n", node.namespace, "route", "add", f"{address}/32", "dev", "flannel.1")
        run("ip", "-n", node.namespace, "neigh", "add", address, "lladdr", mac, "dev", "flannel.1", "nud", "permanent")
        with inside(node.namespace):
            run("bridge", "fdb", "append", mac, "dev", "flannel.1", "dst", other.address)
    run("ip", "netns", "exec", here.namespace, "ping", "-c", "2", "-i", "0.2", "-W", "1", "-I", mine, theirs)


@pytest.mark.runbook("port-taken")
def test_a_taken_port_is_refused_with_the_name_of_who_has_it_and_leaves_what_runs(clean: Topology) -> None:
    node = clean.nodes[0]
    config = NodeConfig(node.address, 1, node.pins.with_name("taken"), vxlan_port=VXLAN_PORT)
    refused = Datapath(config)
    with inside(node.namespace), pytest.raises(OverlayPortTakenError) as caught:
        refused.open()
    assert f"VXLAN device flannel.1 of this node has UDP port {VXLAN_PORT}" in str(caught.value)
    assert "--set agent.vxlan-port=PORT --set apiserver.vxlan-port=PORT" in str(caught.value)
    client, *_, far = clean.pods()
    assert client.ask(far.address, TCP_PORT) == f"{far.name} {client.address}"


def test_a_port_that_a_program_has_is_refused_too(clean: Topology) -> None:
    node = clean.nodes[0]
    with inside(node.namespace):
        holder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with closing(holder):
            holder.bind(("0.0.0.0", 8474))
            with pytest.raises(OverlayPortTakenError, match="a program of this node has UDP port 8474"):
                ensure_overlay("mesh1", 8474, 1450)
        remove_device("mesh1")
