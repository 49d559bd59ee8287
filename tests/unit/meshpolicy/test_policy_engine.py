# SPDX-License-Identifier: Apache-2.0
"""The engine: what a change touches, what it announces, and the corners that no document shows."""

from __future__ import annotations

from typing import Any

import pytest
from policy_world import CLIENT, REMOTE, SERVER, STRANGER, WHO, allows, build, labels, policy, port

from meshmodel.identity import LOCAL_SCOPE_CIDR, NumericIdentity, Reserved
from meshmodel.labels import Label
from meshpolicy import CidrGroup, Direction, Enforcement, EntryKey, MatchType, PolicyRef, differences, lookup
from meshpolicy.prefix import parse_prefix

FROM_CLIENT = [{"fromEndpoints": [{"matchLabels": {"app": "client"}}]}]
WORLD_OF_IPV4: list[dict[str, Any]] = [
    {"toEntities": ["world-ipv4"]},
    {"toEndpoints": [{"matchLabels": {"reserved:world-ipv4": ""}}]},
    {"toEndpoints": [{"matchExpressions": [{"key": "$world-ipv4", "operator": "Exists"}]}]},
]


def test_a_policy_announces_the_endpoints_it_selects_and_no_others() -> None:
    engine = build()
    for number in WHO:
        engine.endpoint_policy(number)
    change = engine.set_policy(policy(engine, ingress=FROM_CLIENT))
    assert change.affected == {SERVER}
    assert engine.set_policy(policy(engine, ingress=FROM_CLIENT)).affected == frozenset()
    assert engine.remove_policy(PolicyRef("CiliumNetworkPolicy", "default", "p")).affected == {SERVER}


def test_an_endpoint_that_nobody_asked_for_is_not_announced() -> None:
    engine = build()
    assert engine.set_policy(policy(engine, ingress=FROM_CLIENT)).affected == frozenset()
    engine.endpoint_policy(SERVER)
    engine.forget_endpoint(SERVER)
    assert engine.remove_identity(CLIENT).affected == frozenset()


def test_a_new_identity_writes_its_own_entries_only() -> None:
    engine = build()
    engine.set_policy(policy(engine, ingress=FROM_CLIENT))
    before = engine.endpoint_policy(SERVER)
    newcomer = NumericIdentity(400)
    assert engine.set_identity(newcomer, labels("client")).affected == {SERVER}
    diff = engine.endpoint_policy(SERVER).diff(before)
    assert set(diff.updates) == {EntryKey(Direction.INGRESS, 400, 0, 0, 0)}
    assert diff.deletes == ()
    before = engine.endpoint_policy(SERVER)
    assert engine.remove_identity(newcomer).affected == {SERVER}
    assert engine.endpoint_policy(SERVER).diff(before).deletes == (EntryKey(Direction.INGRESS, 400, 0, 0, 0),)


def test_an_identity_with_other_labels_changes_sides() -> None:
    engine = build()
    engine.set_policy(policy(engine, ingress=FROM_CLIENT))
    assert allows(engine, SERVER, CLIENT)
    engine.set_identity(CLIENT, labels("other"))
    assert not allows(engine, SERVER, CLIENT)
    assert engine.set_identity(CLIENT, labels("other")).affected == frozenset()


def test_a_replaced_policy_leaves_nothing_behind() -> None:
    engine = build()
    engine.set_policy(policy(engine, ingress=FROM_CLIENT))
    engine.set_policy(policy(engine, app="client", egress=[{}]))
    assert not engine.endpoint_policy(SERVER).ingress_enforced
    assert engine.endpoint_policy(CLIENT).egress_enforced


def test_localhost_is_allowed_on_ingress_unless_denied() -> None:
    engine = build()
    engine.set_policy(policy(engine, ingress=[{}]))
    assert allows(engine, SERVER, Reserved.HOST)
    engine.set_policy(policy(engine, "deny", ingressDeny=[{"fromEntities": ["host"], "toPorts": port("80")}]))
    assert not allows(engine, SERVER, Reserved.HOST)
    assert allows(engine, SERVER, Reserved.HOST, 81)
    strict = build(allow_localhost=False)
    strict.set_policy(policy(strict, ingress=[{}]))
    assert not allows(strict, SERVER, Reserved.HOST)


def test_a_pod_without_labels_yet_is_closed_both_ways() -> None:
    engine = build()
    init = engine.endpoint_policy(NumericIdentity(Reserved.INIT))
    assert init.ingress_enforced
    assert init.egress_enforced
    assert set(init.entries) == {EntryKey(Direction.INGRESS, int(Reserved.HOST), 0, 0, 0)}


def test_an_identity_that_is_not_known_is_closed_both_ways_until_it_is() -> None:
    engine = build()
    newcomer = NumericIdentity(999)
    policy_before = engine.endpoint_policy(newcomer)
    assert policy_before.ingress_enforced
    assert policy_before.egress_enforced
    assert engine.set_identity(newcomer, labels("new")).affected == {newcomer}
    assert not engine.endpoint_policy(newcomer).ingress_enforced


@pytest.mark.parametrize(
    ("mode", "enforced"), [(Enforcement.DEFAULT, False), (Enforcement.ALWAYS, True), (Enforcement.NEVER, False)]
)
def test_enforcement_modes(mode: Enforcement, *, enforced: bool) -> None:
    engine = build(enforcement=mode)
    assert engine.endpoint_policy(SERVER).egress_enforced is enforced
    engine.set_policy(policy(engine, ingress=[{}]))
    assert engine.endpoint_policy(SERVER).ingress_enforced is (mode is not Enforcement.NEVER)


def test_prefixes_get_stable_local_identities_while_a_policy_names_them() -> None:
    engine, other = build(), build()
    rule = [{"toCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}]}, {"toCIDR": ["0.0.0.0/0"]}]
    change = engine.set_policy(policy(engine, egress=rule))
    assert set(change.prefixes_added) == {"10.0.0.0/8", "10.1.0.0/16"}
    assert engine.prefixes() == change.prefixes_added
    assert all(LOCAL_SCOPE_CIDR < number < 2 * LOCAL_SCOPE_CIDR for number in engine.prefixes().values())
    other.set_policy(policy(other, "other", egress=[{"toCIDR": ["10.1.0.0/16"]}]))
    assert other.prefixes().items() <= engine.prefixes().items()
    kept = engine.set_policy(policy(engine, egress=[{"toCIDR": ["10.1.0.0/16"]}]))
    assert (dict(kept.prefixes_added), kept.prefixes_removed) == ({}, ("10.0.0.0/8",))
    gone = engine.remove_policy(PolicyRef("CiliumNetworkPolicy", "default", "p"))
    assert gone.prefixes_removed == ("10.1.0.0/16",)
    assert engine.prefixes() == {}


def test_a_nested_prefix_of_another_policy_stays_inside_its_range() -> None:
    engine = build()
    engine.set_policy(policy(engine, egress=[{"toCIDR": ["10.0.0.0/8"]}]))
    engine.endpoint_policy(SERVER)
    change = engine.set_policy(policy(engine, "deep", app="client", egress=[{"toCIDR": ["10.1.2.0/24"]}]))
    deep = engine.prefixes()["10.1.2.0/24"]
    assert change.affected == {SERVER}
    assert engine.endpoint_policy(SERVER).verdict(Direction.EGRESS, deep, 6, 80).allowed


def test_a_group_can_come_before_after_and_go() -> None:
    engine = build()
    rule = [{"toCIDRSet": [{"cidrGroupRef": "g", "except": ["192.0.2.128/25"]}]}]
    engine.set_policy(policy(engine, egress=rule))
    engine.endpoint_policy(SERVER)
    assert engine.prefixes() == {}
    change = engine.set_cidr_group(CidrGroup("g", {}, (parse_prefix("192.0.2.0/24"),)))
    assert change.affected == {SERVER}
    assert set(change.prefixes_added) == {"192.0.2.0/24", "192.0.2.128/25"}
    inside, hole = engine.prefixes()["192.0.2.0/24"], engine.prefixes()["192.0.2.128/25"]
    compiled = engine.endpoint_policy(SERVER)
    assert compiled.verdict(Direction.EGRESS, inside, 6, 80).allowed
    assert not compiled.verdict(Direction.EGRESS, hole, 6, 80).allowed
    assert set(engine.remove_cidr_group("g").prefixes_removed) == {"192.0.2.0/24", "192.0.2.128/25"}


def test_dual_stack_gives_each_family_its_world() -> None:
    engine = build(dual_stack=True)
    engine.set_policy(policy(engine, egress=[{"toCIDR": ["0.0.0.0/0"]}]))
    compiled = engine.endpoint_policy(SERVER)
    verdicts = {
        number: compiled.verdict(Direction.EGRESS, number, 6, 80).allowed
        for number in (Reserved.WORLD, Reserved.WORLD_IPV4, Reserved.WORLD_IPV6)
    }
    assert verdicts == {Reserved.WORLD: False, Reserved.WORLD_IPV4: True, Reserved.WORLD_IPV6: False}
    single = build()
    single.set_policy(policy(single, egress=[{"toCIDR": ["0.0.0.0/0"]}]))
    assert single.endpoint_policy(SERVER).verdict(Direction.EGRESS, Reserved.WORLD, 6, 80).allowed


@pytest.mark.parametrize("section", ["egress", "egressDeny"])
def test_a_range_of_ipv6_stays_in_the_world_of_ipv6_whoever_names_it(section: str) -> None:
    """Agents of one family of pods know it too: packets of IPv6 from outside are `world-ipv6` there."""
    engine = build()
    engine.set_policy(
        policy(
            engine,
            **{
                "egress": [{"toEntities": ["all"]}] if section != "egress" else [],
                section: [{"toEntities": ["world-ipv6"]}],
            },
        )
    )
    engine.set_policy(policy(engine, "other", app="stranger", egress=[{"toCIDR": ["2001:db8::/32", "192.0.2.0/24"]}]))
    compiled, ranges = engine.endpoint_policy(SERVER), engine.prefixes()
    is_allowed = section == "egress"
    assert compiled.verdict(Direction.EGRESS, Reserved.WORLD_IPV6, 6, 80).allowed is is_allowed
    assert compiled.verdict(Direction.EGRESS, ranges["2001:db8::/32"], 6, 80).allowed is is_allowed
    assert compiled.verdict(Direction.EGRESS, ranges["192.0.2.0/24"], 6, 80).allowed is not is_allowed


@pytest.mark.parametrize("ipv6", [False, True])
@pytest.mark.parametrize("peer", WORLD_OF_IPV4)
def test_beside_a_world_of_ipv6_the_other_outsiders_are_the_world_of_ipv4(peer: dict[str, Any], ipv6: bool) -> None:
    """With IPv4 alone there is no such world, as on Cilium."""
    engine = build(ipv6=ipv6)
    engine.set_policy(policy(engine, egress=[{"toEntities": ["all"]}], egressDeny=[peer]))
    engine.set_policy(policy(engine, "other", app="stranger", egress=[{"toCIDR": ["2001:db8::/32", "192.0.2.0/24"]}]))
    compiled, ranges = engine.endpoint_policy(SERVER), engine.prefixes()
    for number in (Reserved.WORLD, ranges["192.0.2.0/24"]):
        assert compiled.verdict(Direction.EGRESS, number, 6, 80).allowed is not ipv6
    for number in (Reserved.WORLD_IPV6, ranges["2001:db8::/32"]):
        assert compiled.verdict(Direction.EGRESS, number, 6, 80).allowed


@pytest.mark.parametrize("ipv6", [False, True])
@pytest.mark.parametrize("section", ["egress", "egressDeny"])
def test_the_label_world_means_outsiders_of_both_families_as_the_entity_does(section: str, ipv6: bool) -> None:
    """On Cilium nobody carries it where both are judged: a rule that denies the world would deny nobody then."""
    by_label, by_entity = build(ipv6=ipv6), build(ipv6=ipv6)
    for engine, peer in (
        (by_label, {"toEndpoints": [{"matchLabels": {"reserved:world": ""}}]}),
        (by_entity, {"toEntities": ["world"]}),
    ):
        engine.set_policy(policy(engine, **({"egress": [{"toEntities": ["all"]}]} | {section: [peer]})))
        named = [{"toCIDR": ["2001:db8::/32", "192.0.2.0/24"]}]
        engine.set_policy(policy(engine, "other", app="stranger", egress=named))
    ranges = [n for prefix, n in by_label.prefixes().items() if ":" not in prefix or ipv6]
    for number in (Reserved.WORLD, *ranges, *([Reserved.WORLD_IPV6] if ipv6 else [])):
        verdicts = [e.endpoint_policy(SERVER).verdict(Direction.EGRESS, number, 6, 80) for e in (by_label, by_entity)]
        assert [verdict.allowed for verdict in verdicts] == [section == "egress"] * 2


HTTP = {"http": [{"method": "GET"}]}


def test_an_http_port_is_denied_until_it_can_be_enforced_and_a_plain_allow_wins() -> None:
    engine = build()
    rules = {"toPorts": port("80", rules=HTTP)}
    engine.set_policy(policy(engine, ingress=[{**FROM_CLIENT[0], **rules}]))
    assert not allows(engine, SERVER, CLIENT)
    engine.set_policy(policy(engine, "plain", ingress=[{**FROM_CLIENT[0], "toPorts": port("80")}]))
    assert allows(engine, SERVER, CLIENT)


def test_an_http_port_stays_denied_where_default_deny_is_off() -> None:
    engine = build()
    rules = {**FROM_CLIENT[0], "toPorts": port("80", rules=HTTP)}
    engine.set_policy(policy(engine, enableDefaultDeny={"ingress": False}, ingress=[rules]))
    assert not allows(engine, SERVER, CLIENT)
    assert allows(engine, SERVER, CLIENT, 81)
    assert allows(engine, SERVER, Reserved.WORLD)
    engine.set_policy(policy(engine, "plain", enableDefaultDeny={"ingress": False}, ingress=FROM_CLIENT))
    assert allows(engine, SERVER, CLIENT)


def test_named_ports_are_the_endpoints_own_on_ingress() -> None:
    engine = build()
    engine.set_policy(policy(engine, ingress=[{**FROM_CLIENT[0], "toPorts": port("http")}]))
    own = engine.endpoint_policy(SERVER, {"http": (8080, 6)})
    other = engine.endpoint_policy(SERVER, {"http": (9090, 6)})
    assert own.verdict(Direction.INGRESS, CLIENT, 6, 8080).allowed
    assert not own.verdict(Direction.INGRESS, CLIENT, 6, 9090).allowed
    assert other.verdict(Direction.INGRESS, CLIENT, 6, 9090).allowed


def test_named_ports_follow_the_pods_on_egress() -> None:
    engine = build()
    engine.set_policy(policy(engine, egress=[{"toEntities": ["all"], "toPorts": port("http")}]))
    engine.endpoint_policy(SERVER)
    assert engine.set_pod_ports("default/a", CLIENT, {"http": (8080, 6)}).affected == {SERVER}
    assert engine.endpoint_policy(SERVER).verdict(Direction.EGRESS, CLIENT, 6, 8080).allowed
    assert engine.set_pod_ports("default/a", CLIENT, {}).affected == {SERVER}
    assert not engine.endpoint_policy(SERVER).verdict(Direction.EGRESS, CLIENT, 6, 8080).allowed


def test_a_port_name_means_each_peers_own_number_on_egress() -> None:
    engine = build()
    engine.set_policy(
        policy(engine, egress=[{"toEndpoints": [{"matchLabels": {"app": "client"}}], "toPorts": port("http")}])
    )
    engine.set_pod_ports("default/a", CLIENT, {"http": (8080, 6)})
    engine.set_pod_ports("default/b", STRANGER, {"http": (9090, 6)})
    engine.set_pod_ports("south/default/c", REMOTE, {"http": (7070, 6)})
    found = engine.endpoint_policy(SERVER)
    for peer, allowed in ((CLIENT, 8080), (REMOTE, 7070)):
        for number in (7070, 8080, 9090):
            assert found.verdict(Direction.EGRESS, peer, 6, number).allowed is (number == allowed)
    assert not found.verdict(Direction.EGRESS, STRANGER, 6, 9090).allowed
    assert differences(engine) == ()


def test_a_port_name_to_everybody_opens_nothing_of_who_does_not_define_it() -> None:
    engine = build()
    engine.set_policy(policy(engine, egress=[{"toPorts": port("http")}]))
    engine.set_pod_ports("default/a", CLIENT, {"http": (8080, 6)})
    found = engine.endpoint_policy(SERVER)
    assert found.verdict(Direction.EGRESS, CLIENT, 6, 8080).allowed
    for peer in (REMOTE, STRANGER, 2):
        assert not found.verdict(Direction.EGRESS, peer, 6, 8080).allowed


def test_pods_of_one_identity_that_disagree_are_all_reached_during_a_rolling_update() -> None:
    engine = build()
    engine.set_policy(policy(engine, egress=[{"toPorts": port("http")}]))
    engine.endpoint_policy(SERVER)
    for pod, number in (("old", 80), ("new", 8080)):
        assert engine.set_pod_ports(pod, CLIENT, {"http": (number, 6)}).affected == {SERVER}
    found = engine.endpoint_policy(SERVER)
    assert all(found.verdict(Direction.EGRESS, CLIENT, 6, number).allowed for number in (80, 8080))
    assert engine.set_pod_ports("old", CLIENT, {}).affected == {SERVER}
    assert not engine.endpoint_policy(SERVER).verdict(Direction.EGRESS, CLIENT, 6, 80).allowed


def test_a_pod_that_takes_another_identity_takes_its_port_names_along() -> None:
    engine = build()
    engine.set_policy(policy(engine, egress=[{"toPorts": port("http")}]))
    engine.endpoint_policy(SERVER)
    engine.set_pod_ports("a", CLIENT, {"http": (80, 6)})
    assert engine.set_pod_ports("a", REMOTE, {"http": (80, 6)}).affected == {SERVER}
    found = engine.endpoint_policy(SERVER)
    assert not found.verdict(Direction.EGRESS, CLIENT, 6, 80).allowed
    assert found.verdict(Direction.EGRESS, REMOTE, 6, 80).allowed
    assert differences(engine) == ()


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (FROM_CLIENT[0], MatchType.L3_ONLY),
        ({**FROM_CLIENT[0], "toPorts": port("80")}, MatchType.L3_L4),
        ({**FROM_CLIENT[0], "toPorts": port("0")}, MatchType.L3_PROTO),
        ({"toPorts": port("80")}, MatchType.L4_ONLY),
        ({"toPorts": port("0")}, MatchType.PROTO_ONLY),
        ({"fromEntities": ["all"]}, MatchType.ALL),
        ({"fromEntities": ["none"]}, MatchType.NONE),
    ],
)
def test_match_types(rule: dict[str, object], expected: MatchType) -> None:
    engine = build()
    engine.set_policy(policy(engine, ingress=[rule]))
    compiled = engine.endpoint_policy(SERVER)
    assert compiled.verdict(Direction.INGRESS, CLIENT, 6, 80).match_type is expected
    assert lookup(compiled.entries, Direction.INGRESS, CLIENT, 6, 80).match_type is expected


def test_a_broad_denial_removes_the_narrow_allows_that_it_covers() -> None:
    engine = build()
    engine.set_policy(policy(engine, ingress=[{**FROM_CLIENT[0], "toPorts": [*port("80"), *port("53", "UDP")]}]))
    engine.set_policy(policy(engine, "deny", ingressDeny=[{**FROM_CLIENT[0], "toPorts": port("0")}]))
    keys = {key for key in engine.endpoint_policy(SERVER).entries if key.identity == CLIENT}
    assert keys == {EntryKey(Direction.INGRESS, CLIENT, 6, 0, 0), EntryKey(Direction.INGRESS, CLIENT, 17, 53, 16)}


def test_unscoped_and_scoped_peers_select_by_cluster() -> None:
    wide, narrow = build(), build(default_local_cluster=True)
    for engine in (wide, narrow):
        engine.set_policy(policy(engine, ingress=FROM_CLIENT))
    assert (allows(wide, SERVER, REMOTE), allows(narrow, SERVER, REMOTE)) == (True, False)
    assert allows(narrow, SERVER, CLIENT)
    assert not allows(wide, SERVER, STRANGER)


def test_selectors_print_what_they_select() -> None:
    engine = build()
    engine.set_policy(policy(engine, ingress=FROM_CLIENT))
    assert engine.selectors() == {
        "{app=client, k8s:io.kubernetes.pod.namespace=default}": (CLIENT, REMOTE),
        "{app=server, k8s:io.kubernetes.pod.namespace=default}": (SERVER,),
    }


def test_the_host_may_also_be_the_api_server() -> None:
    engine = build(allow_localhost=False)
    host = NumericIdentity(Reserved.HOST)
    engine.set_identity(host, (Label("reserved", "host", ""), Label("reserved", "kube-apiserver", "")))
    engine.set_policy(policy(engine, ingress=[{"fromEntities": ["kube-apiserver"]}]))
    assert allows(engine, SERVER, host)
    assert allows(engine, SERVER, Reserved.KUBE_APISERVER)
    assert not allows(engine, SERVER, Reserved.REMOTE_NODE)
