# SPDX-License-Identifier: Apache-2.0
"""Rules that name a Service, from the document to packets: its remote backends by either address, and nobody else."""

from __future__ import annotations

from typing import Any

import pytest

from agent.datapath.reasons import Reason
from agent.tables import Backend, BackendSet, LabelledService, PeerHealth
from meshmodel.names import ClusterId, ServiceName
from tests.packet.packet_bytes import TCP, Packet
from tests.packet.packet_node import NEIGHBOUR, POD, REDIRECT, REMOTE_POD, VIP, PacketNode
from tests.packet.test_packet_documents import DocumentWorld
from tests.packet.test_packet_nodes import SOUTH

pytestmark = pytest.mark.root
WEB = ServiceName("shop", "web")
BY_NAME = {"k8sService": {"serviceName": "web", "namespace": "shop"}}
BY_LABEL = {"k8sServiceSelector": {"selector": {"matchLabels": {"app": "web"}}, "namespace": "shop"}}
PORT = [{"ports": [{"port": "9090", "protocol": "TCP"}]}]


class ServiceWorld(DocumentWorld):
    """The pod, and a Service whose backends are in the other cluster."""

    def __init__(self, node: PacketNode) -> None:
        super().__init__(node)
        with self.db.write():
            self.db.peers.put(PeerHealth(SOUTH, ClusterId(2)))
        node.service([(1, REMOTE_POD, 9090)])

    def announce(self, *addresses: str, is_global: bool = True) -> None:
        """The other cluster announces these backends; the Service here is global, or not."""
        backends = tuple(Backend(address, 9090, "TCP") for address in addresses)
        with self.db.write():
            self.db.labelled_services.put(LabelledService(WEB, (("app", "web"),), is_global))
            self.db.backends.put(BackendSet(WEB, SOUTH, ClusterId(2), backends))
        self.settle()


def sent(node: PacketNode, destination: str, port: int) -> Reason | None:
    """Why a new connection of the pod is dropped; None where it leaves."""
    node.maps.conntrack_tcp.delete([key for key, _ in node.maps.conntrack_tcp.items()])
    node.maps.conntrack_opening.delete([key for key, _ in node.maps.conntrack_opening.items()])
    out = node.send(Packet(POD, destination, TCP, destination_port=port))
    return None if out.verdict == REDIRECT else out.drop


@pytest.mark.parametrize("peer", [BY_NAME, BY_LABEL], ids=["by name", "by label"])
def test_a_rule_for_a_service_opens_its_remote_backends_only(node: PacketNode, peer: dict[str, Any]) -> None:
    world = ServiceWorld(node)
    world.rule("egress", toServices=[peer], toPorts=PORT)
    assert sent(node, VIP, 80) is Reason.POLICY_DENIED, "nobody has announced a backend yet"
    world.announce(REMOTE_POD)
    assert sent(node, VIP, 80) is None
    assert sent(node, REMOTE_POD, 9090) is None
    assert sent(node, REMOTE_POD, 9091) is Reason.POLICY_DENIED
    assert sent(node, NEIGHBOUR, 9090) is Reason.POLICY_DENIED
    world.announce()
    assert sent(node, VIP, 80) is Reason.POLICY_DENIED


def test_backends_of_peers_count_only_while_the_service_is_global(node: PacketNode) -> None:
    world = ServiceWorld(node)
    world.rule("egress", toServices=[BY_NAME])
    world.announce(REMOTE_POD)
    assert sent(node, VIP, 80) is None
    world.announce(REMOTE_POD, is_global=False)
    assert sent(node, VIP, 80) is Reason.POLICY_DENIED


def test_a_rule_that_denies_a_service_closes_its_remote_backends(node: PacketNode) -> None:
    world = ServiceWorld(node)
    world.rule("egressDeny", toServices=[BY_NAME])
    assert sent(node, VIP, 80) is None
    world.announce(REMOTE_POD)
    assert sent(node, VIP, 80) is Reason.POLICY_DENY_RULE
    assert sent(node, NEIGHBOUR, 9090) is None
