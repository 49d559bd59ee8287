# SPDX-License-Identifier: Apache-2.0
"""Which side decides, by which rule, and what is said where somebody does not know something."""

from __future__ import annotations

from dataclasses import replace

import pytest
from explain_world import DB_SOUTH, WEB_NORTH, app, deny_all, end, policy

from clustermesh_cli.connection_decision import ConnectionDecision, End, Packet, decide
from meshapi.agent import PolicyMapRow
from meshmodel.labels import CLUSTER_LABEL
from meshpolicy.asked import parse_asked
from meshpolicy.mapstate import precedence
from meshpolicy.port import TCP
from meshpolicy.tier import Level

HTTP = Packet(TCP, 80)
TO_DB = policy("to-db", "web", egress=[{"toEndpoints": [app("db")]}])
FROM_WEB = policy("from-web", "db", ingress=[{"fromEndpoints": [app("web", **{CLUSTER_LABEL: "north"})]}])
ALLOW = precedence(Level.NORMAL, deny=False)


def entry(direction: int, identity: int, *, deny: bool = False, proxy_port: int = 0) -> PolicyMapRow:
    return PolicyMapRow(
        endpoint_id=1,
        direction=direction,
        identity=identity,
        protocol=0,
        port=0,
        port_bits=0,
        deny=deny,
        precedence=precedence(Level.NORMAL, deny=deny),
        proxy_port=proxy_port,
        rule="some rule",
    )


def judged(source: End, destination: End, packet: Packet = HTTP) -> ConnectionDecision:
    return decide(source, destination, packet)


def test_the_ingress_side_is_named_when_only_egress_is_allowed() -> None:
    found = judged(end(WEB_NORTH, deny_all("web"), TO_DB), end(DB_SOUTH, deny_all("db")))
    assert found.allowed is False
    assert (found.egress.explanation.allowed, found.ingress.explanation.allowed) == (True, False)
    assert str(found.egress.explanation.deciding) == "cnp/shop/to-db egress[0]"
    assert found.ingress.end.cluster == "south"


def test_both_sides_must_allow() -> None:
    found = judged(end(WEB_NORTH, deny_all("web"), TO_DB), end(DB_SOUTH, deny_all("db"), FROM_WEB))
    assert found.allowed is True
    assert str(found.ingress.explanation.deciding) == "cnp/shop/from-web ingress[0]"


def test_with_the_scope_switch_on_an_unscoped_peer_of_another_cluster_is_not_meant() -> None:
    found = judged(end(WEB_NORTH, TO_DB, switch=True), end(DB_SOUTH))
    assert found.egress.explanation.allowed is False
    assert judged(end(WEB_NORTH, TO_DB, switch=False), end(DB_SOUTH)).allowed is True


@pytest.mark.parametrize(("documents", "allowed"), [((), None), ((deny_all("web"),), False)], ids=["open", "denied"])
def test_a_cluster_that_is_not_asked_is_not_known_unless_the_other_side_denies(
    documents: tuple[dict[str, object], ...], allowed: bool | None
) -> None:
    remote = replace(end(DB_SOUTH), live=None, view=None)
    found = judged(end(WEB_NORTH, *documents), remote)
    assert found.allowed is allowed
    assert found.ingress.explanation.allowed is None
    assert "not known here" in found.ingress.explanation.reason
    assert "south" in found.ingress.explanation.reason


def test_a_peer_whose_identity_has_not_arrived_is_denied_by_what_names_somebody() -> None:
    found = judged(end(WEB_NORTH, TO_DB, unknown=(DB_SOUTH,)), end(DB_SOUTH))
    assert found.egress.peer is not None
    assert not found.egress.peer.is_known
    assert found.egress.explanation.allowed is False
    assert "not arrived" in found.egress.explanation.reason


@pytest.mark.parametrize(
    ("spec", "allowed"),
    [
        ({"toEntities": ["all"]}, True),
        ({"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]}, False),
    ],
    ids=["everybody", "everybody-on-a-port"],
)
def test_an_unknown_peer_passes_only_where_everything_does(spec: dict[str, object], allowed: bool) -> None:
    open_policy = policy("open", "web", egress=[spec])
    assert judged(end(WEB_NORTH, open_policy, unknown=(DB_SOUTH,)), end(DB_SOUTH)).egress.explanation.allowed is allowed


def test_an_unknown_peer_passes_where_nothing_is_enforced() -> None:
    assert judged(end(WEB_NORTH, unknown=(DB_SOUTH,)), end(DB_SOUTH)).egress.explanation.allowed is True


def test_a_pod_whose_own_labels_have_not_arrived_is_denied_once_there_is_any_policy() -> None:
    assert judged(end(WEB_NORTH, unknown=(WEB_NORTH,)), end(DB_SOUTH)).egress.explanation.allowed is True
    found = judged(end(WEB_NORTH, deny_all("db"), unknown=(WEB_NORTH,)), end(DB_SOUTH))
    assert found.egress.explanation.allowed is False
    assert "labels of its identity" in found.egress.explanation.reason


def test_a_pod_on_its_nodes_network_is_not_judged() -> None:
    found = judged(replace(end(WEB_NORTH, deny_all("web")), uses_host_network=True), end(DB_SOUTH))
    assert found.allowed is True
    assert "node's network" in found.egress.explanation.reason


def test_a_node_is_judged_as_its_kernel_holds_it_and_what_stays_on_it_is_not() -> None:
    entry = PolicyMapRow(
        endpoint_id=0, direction=0, identity=0, protocol=6, port=6443, port_bits=16, deny=False, precedence=1, proxy_port=0,
        rule="built-in/guard egress api-server",
    )  # fmt: skip
    node = replace(end(WEB_NORTH), uses_host_network=True, realised=(entry,))
    found = decide(node, end(DB_SOUTH), Packet(6, 6443)).egress.explanation
    assert (found.allowed, found.enforced) == (True, True)
    assert found.reason.startswith("allowed by built-in/guard egress api-server")
    found = decide(node, end(DB_SOUTH), Packet(6, 6444)).egress.explanation
    assert (found.allowed, found.enforced) == (False, True)
    pod = replace(end(DB_SOUTH), cluster=node.cluster, node=node.node)
    assert decide(node, pod, Packet(6, 6444)).egress.explanation.allowed is True
    assert decide(pod, node, Packet(6, 6444)).ingress.explanation.allowed is False


@pytest.mark.parametrize(
    ("ranges", "allowed"),
    [(["192.0.2.0/24"], True), (["198.51.100.0/24"], False)],
    ids=["inside", "elsewhere"],
)
def test_an_address_outside_is_judged_by_ranges_and_only_on_our_side(ranges: list[str], allowed: bool) -> None:
    outside = End(name="192.0.2.7", cluster="", address="192.0.2.7")
    found = judged(end(WEB_NORTH, policy("cidr", "web", egress=[{"toCIDR": ranges}])), outside)
    assert found.allowed is allowed
    assert found.ingress.peer is None


@pytest.mark.parametrize("family", ["4", "6"])
def test_an_address_that_nobody_names_is_of_the_world_of_its_family(family: str) -> None:
    outside = End("outside", "", "2001:db8::1" if family == "6" else "192.0.2.1")
    to_six = policy("out", "web", egress=[{"toEntities": ["world-ipv6"]}])
    assert judged(end(WEB_NORTH, to_six), outside).egress.explanation.allowed is (family == "6")


def test_a_range_that_holds_a_peers_pod_does_not_mean_it() -> None:
    found = judged(end(WEB_NORTH, policy("cidr", "web", egress=[{"toCIDR": ["10.0.0.0/8"]}])), end(DB_SOUTH))
    assert found.egress.explanation.allowed is False


def test_what_the_node_really_does_is_told_where_it_differs() -> None:
    realised = (entry(0, DB_SOUTH),)
    same = judged(end(WEB_NORTH, TO_DB, realised=realised), end(DB_SOUTH, enforced=False))
    assert same.egress.enforced is not None
    assert (same.egress.enforced.allowed, same.egress.enforced.rule) == (True, "some rule")
    assert same.egress.remarks == ()
    late = judged(end(WEB_NORTH, deny_all("web"), realised=realised), end(DB_SOUTH, enforced=False))
    assert late.allowed is False
    assert "still allows it by some rule" in late.egress.remarks[0]


def test_a_node_that_has_not_found_the_pod_is_told() -> None:
    source = end(WEB_NORTH)
    assert source.view is not None
    found = judged(replace(source, view=replace(source.view, endpoints=())), end(DB_SOUTH))
    assert "enforces nothing for it yet" in found.egress.remarks[0]


def test_a_policy_that_is_not_valid_is_remarked_and_has_no_effect() -> None:
    broken = policy("broken", "web", egress=[{"toPorts": [{"ports": [{"port": "80", "protocol": "PIGEON"}]}]}])
    found = judged(end(WEB_NORTH, broken), end(DB_SOUTH))
    assert found.egress.explanation.allowed is True
    assert "CiliumNetworkPolicy/shop/broken is not valid" in found.egress.remarks[0]


def test_a_policy_for_whose_ranges_there_is_no_room_is_remarked_and_denies() -> None:
    ranges = [f"10.0.{n >> 8}.{n & 255}" for n in range(32_769)]
    found = judged(end(WEB_NORTH, policy("many", "web", egress=[{"toCIDR": ranges}, {}])), end(DB_SOUTH))
    assert found.egress.explanation.allowed is False
    assert any(remark.startswith("cnp/shop/many is kept closed: it names 32769") for remark in found.egress.remarks)


def test_a_connection_whose_requests_are_judged_is_led_to_the_proxy() -> None:
    rule = {
        "toEndpoints": [app("db")],
        "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{"method": "GET"}]}}],
    }
    source = end(WEB_NORTH, policy("gets", "web", egress=[rule]), realised=(entry(0, DB_SOUTH, proxy_port=15_001),))
    side = judged(source, end(DB_SOUTH, enforced=False)).egress
    assert side.explanation.allowed is True
    assert side.explanation.reason == (
        "led to the proxy of its node by some rule: a request that no rule allows is refused"
    )
    assert side.remarks == ()


@pytest.mark.parametrize(
    ("asked", "allowed", "reason"),
    [
        ("GET /a", True, "GET /a is allowed by the proxy of its node, which allows: method GET"),
        ("PUT /a", False, "PUT /a is refused by the proxy of its node, which allows: method GET"),
        ("a.io", False, "the name a.io. is refused by the proxy of its node, which allows: method GET"),
    ],
)
def test_what_is_asked_over_it_is_judged_by_the_list(asked: str, reason: str, *, allowed: bool) -> None:
    rule = {
        "toEndpoints": [app("db")],
        "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{"method": "GET"}]}}],
    }
    source = end(WEB_NORTH, policy("gets", "web", egress=[rule]), realised=(entry(0, DB_SOUTH, proxy_port=15_001),))
    found = decide(source, end(DB_SOUTH, enforced=False), HTTP, parse_asked(asked)).egress
    assert (found.explanation.allowed, found.explanation.reason) == (allowed, reason)
    assert found.remarks == ()
