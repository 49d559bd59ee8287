# SPDX-License-Identifier: Apache-2.0
"""One pod floods, with real frames; what others had open goes on."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from tests.integration.datapath.datapath_topology import SIZES, Pod, Topology, exchange
from tests.packet.datapath_host import inside
from tests.packet.packet_bytes import Packet

pytestmark = pytest.mark.root
VIP = "172.20.1.7"


def _flood(pod: Pod, address: str, count: int) -> None:
    """SYNs from ports the pod has no socket on."""
    macs = bytes.fromhex((pod.node_mac + pod.mac).replace(":", ""))
    with inside(pod.namespace), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as made:
        made.bind(("eth0", 0x0800))
        syn = Packet(pod.address, address, payload=b"")
        for n in range(count):
            packet = replace(syn, source_port=1024 + n % 50_000, destination_port=80 + n // 50_000)
            made.send(macs + packet.frame()[12:])


@pytest.mark.parametrize("backend", [1, -1], ids=["same node", "other cluster"])
def test_open_connections_of_a_node_survive_a_flood_of_one_of_its_pods(clean: Topology, backend: int) -> None:
    client, attacker, target = clean.pods()[0], clean.pods()[1], clean.pods()[backend]
    clean.service(VIP, [target])
    with client.connect(VIP, 80) as silent, client.connect(VIP, 80) as busy:
        exchange(busy)
        _flood(attacker, VIP, 10 * SIZES["mesh_ct_opening"])
        assert exchange(busy).startswith(target.name)
        assert exchange(silent).startswith(target.name), "nothing but the handshake was seen of it before"
    assert client.ask(VIP, 80).startswith(target.name)


def test_open_connections_of_a_node_survive_those_that_its_pods_complete(clean: Topology) -> None:
    """Each of those has three entries here, and nobody sweeps the tables."""
    target, busy = clean.nodes[0].pods
    clean.service(VIP, [target])
    with busy.connect(VIP, 80) as silent:
        for _ in range(SIZES["mesh_ct_tcp"]):
            busy.ask(VIP, 80)
        assert clean.nodes[0].maps.conntrack_tcp.info().count < SIZES["mesh_ct_tcp"] / 4
        assert exchange(silent).startswith(target.name)
