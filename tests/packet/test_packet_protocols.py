# SPDX-License-Identifier: Apache-2.0
"""Protocols beside TCP, UDP and ICMP, from the document to packets of a pod, and to and from processes of the node."""

from __future__ import annotations

import pytest

from agent.datapath.layout import Direction
from agent.datapath.reasons import Reason
from tests.packet.packet_bytes import SCTP, TCP, Packet
from tests.packet.packet_node import NODE, PASS, POD, REDIRECT, REMOTE_POD, WORLD, PacketNode
from tests.packet.test_packet_documents import ports
from tests.packet.test_packet_host import WORLD_ID, allow, arrive, judge
from tests.packet.test_packet_nodes import Policies

pytestmark = pytest.mark.root
WITHOUT_PORTS = {"IGMP": 2, "IPIP": 4, "IPV6": 41, "GRE": 47, "ESP": 50, "AH": 51, "VRRP": 112}


@pytest.mark.parametrize("protocol", ["SCTP", "ANY"])
def test_sctp_of_a_pod_is_judged_by_its_port(node: PacketNode, protocol: str) -> None:
    policies = Policies(node)
    policies.rule("egress", toEntities=["all"], toPorts=ports("3868", protocol))
    assert node.send(Packet(POD, REMOTE_POD, SCTP, 40000, 3868)).verdict == REDIRECT
    assert node.send(Packet(POD, REMOTE_POD, SCTP, 40001, 3869)).drop is Reason.POLICY_DENIED
    policies.rule("ingress", fromEntities=["all"], toPorts=ports("3868", protocol))
    assert node.overlay(Packet(REMOTE_POD, POD, SCTP, 40002, 3868)).verdict == REDIRECT
    assert node.overlay(Packet(REMOTE_POD, POD, SCTP, 40003, 3869)).drop is Reason.POLICY_DENIED


def test_a_rule_for_tcp_opens_no_sctp(node: PacketNode) -> None:
    Policies(node).rule("egress", toEntities=["all"], toPorts=ports("3868"))
    assert node.send(Packet(POD, REMOTE_POD, SCTP, 40000, 3868)).drop is Reason.POLICY_DENIED


@pytest.mark.parametrize("name", WITHOUT_PORTS)
def test_a_rule_for_a_protocol_without_ports_opens_that_one(node: PacketNode, name: str) -> None:
    Policies(node).rule("egress", toEntities=["all"], toPorts=ports("0", name))
    number = WITHOUT_PORTS[name]
    assert node.send(Packet(POD, REMOTE_POD, number)).verdict == REDIRECT
    others = {*WITHOUT_PORTS.values(), TCP, SCTP} - {number}
    for other in others:
        assert node.send(Packet(POD, REMOTE_POD, other)).drop is Reason.POLICY_DENIED


def test_sctp_to_a_process_of_the_node_is_judged_by_its_port(node: PacketNode) -> None:
    judge(node)
    assert arrive(node, Packet(WORLD, NODE, SCTP, 40000, 3868)).drop is Reason.POLICY_DENIED
    allow(node, Direction.INGRESS, WORLD_ID, SCTP, 3868)
    request = Packet(WORLD, NODE, SCTP, 40000, 3868)
    assert arrive(node, request).verdict == PASS
    assert node.leave(request.reverse).verdict == PASS
    assert arrive(node, Packet(WORLD, NODE, SCTP, 40001, 3869)).drop is Reason.POLICY_DENIED
    assert node.leave(Packet(NODE, WORLD, SCTP, 3869, 40001)).drop is Reason.POLICY_DENIED


@pytest.mark.parametrize("name", WITHOUT_PORTS)
def test_a_protocol_without_ports_to_the_node_is_judged_by_its_number(node: PacketNode, name: str) -> None:
    judge(node)
    number = WITHOUT_PORTS[name]
    allow(node, Direction.INGRESS, WORLD_ID, TCP)
    assert arrive(node, Packet(WORLD, NODE, number)).drop is Reason.POLICY_DENIED
    allow(node, Direction.INGRESS, WORLD_ID, number)
    assert arrive(node, Packet(WORLD, NODE, number)).verdict == PASS
