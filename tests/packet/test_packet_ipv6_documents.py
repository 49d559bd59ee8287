# SPDX-License-Identifier: Apache-2.0
"""Policies as people write them, and the packets of IPv6 that they let through."""

from __future__ import annotations

from typing import Any

import pytest

from agent.datapath.reasons import Reason
from tests.packet.packet_bytes import Packet
from tests.packet.packet_bytes6 import ECHO, ICMPV6, Packet6
from tests.packet.packet_node import PASS, POD, POD6, REDIRECT, REMOTE_POD6, WORLD, WORLD6, PacketNode
from tests.packet.test_packet_documents import ports
from tests.packet.test_packet_nodes import Policies

pytestmark = pytest.mark.root

TO_THE_WORLD: dict[str, tuple[dict[str, Any], bool]] = {
    "the world": ({"toEntities": ["world"]}, True),
    "the world of IPv6": ({"toEntities": ["world-ipv6"]}, True),
    "the world of IPv4": ({"toEntities": ["world-ipv4"]}, False),
    "the world by its label": ({"toEndpoints": [{"matchLabels": {"reserved:world": ""}}]}, True),
    "the world of IPv6 by its label": ({"toEndpoints": [{"matchLabels": {"reserved:world-ipv6": ""}}]}, True),
    "the world of IPv4 by its label": ({"toEndpoints": [{"matchLabels": {"reserved:world-ipv4": ""}}]}, False),
    "everybody": ({"toEntities": ["all"]}, True),
    "the cluster": ({"toEntities": ["cluster"]}, False),
    "all of IPv6": ({"toCIDR": ["::/0"]}, True),
    "all of IPv4": ({"toCIDR": ["0.0.0.0/0"]}, False),
    "a range around it": ({"toCIDR": ["2001:db8::/32"]}, True),
    "a range beside it": ({"toCIDR": ["2001:db8:94::/48"]}, False),
    "a range but for a part beside it": ({"toCIDRSet": [{"cidr": "2001:db8::/32", "except": ["2001:db8:94::/48"]}]}, True),
    "a range but for a part around it": ({"toCIDRSet": [{"cidr": "2001:db8::/32", "except": ["2001:db8:93::/48"]}]}, False),
    "another port": ({"toEntities": ["world"], "toPorts": ports("81")}, False),
    "its port": ({"toCIDR": ["::/0"], "toPorts": ports("80")}, True),
}  # fmt: skip


@pytest.mark.parametrize(("rule", "is_allowed"), TO_THE_WORLD.values(), ids=TO_THE_WORLD)
def test_a_rule_of_egress_opens_what_it_says(node6: PacketNode, rule: dict[str, Any], *, is_allowed: bool) -> None:
    Policies(node6).rule("egress", **rule)
    out = node6.send(Packet6(POD6, WORLD6))
    assert out.verdict == PASS if is_allowed else out.drop is Reason.POLICY_DENIED


@pytest.mark.parametrize("name", ["reserved:world-ipv4", "reserved:world-ipv6"])
def test_a_rule_that_denies_a_world_by_its_label_denies_its_family(node6: PacketNode, name: str) -> None:
    Policies(node6).rule("egressDeny", toEndpoints=[{"matchLabels": {name: ""}}])
    both = Packet(POD, WORLD), Packet6(POD6, WORLD6)
    denied, allowed = both if name == "reserved:world-ipv4" else both[::-1]
    assert node6.send(denied).drop is Reason.POLICY_DENY_RULE
    assert node6.send(allowed).verdict == PASS


def test_a_rule_that_denies_all_of_ipv6_leaves_ipv4_alone(node6: PacketNode) -> None:
    Policies(node6).rule("egressDeny", toCIDR=["::/0"])
    assert node6.send(Packet6(POD6, WORLD6)).drop is Reason.POLICY_DENY_RULE
    assert node6.send(Packet(POD, WORLD)).verdict == PASS


@pytest.mark.parametrize(("family", "verdict"), [("IPv6", REDIRECT), ("IPv4", None)])
def test_a_rule_for_icmp_is_of_its_family(node6: PacketNode, family: str, verdict: int | None) -> None:
    kind = "EchoRequest" if family == "IPv6" else "Echo"
    Policies(node6).rule("egress", toEntities=["all"], icmps=[{"fields": [{"family": family, "type": kind}]}])
    out = node6.send(Packet6(POD6, REMOTE_POD6, ICMPV6, ECHO << 8, 7))
    assert out.verdict == verdict if verdict else out.drop is Reason.POLICY_DENIED
