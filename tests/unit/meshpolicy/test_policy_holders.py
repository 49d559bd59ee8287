# SPDX-License-Identifier: Apache-2.0
"""A selector stays known for as long as any rule names it, also a rule that matches no port."""

from __future__ import annotations

from typing import Any

import pytest
from policy_world import CLIENT, SERVER, allows, build, policy

from meshpolicy import Policy, PolicyContext, differences, parse_policy
from meshpolicy.selection import Selections
from meshpolicy.selector import LabelSelector

CLIENTS = {"fromEndpoints": [{"matchLabels": {"app": "client"}}]}
WITHOUT_PORTS: dict[str, Any] = {
    "no ports": {"toPorts": [{"ports": []}]},
    "an empty port rule": {"toPorts": [{}]},
    "HTTP without ports": {"toPorts": [{"rules": {"http": [{"method": "GET"}]}}]},
    "no ICMP types": {"icmps": [{"fields": []}]},
}


@pytest.mark.parametrize("layer4", WITHOUT_PORTS.values(), ids=WITHOUT_PORTS)
def test_a_deny_holds_while_rules_without_ports_of_the_same_peers_are_edited(layer4: dict[str, Any]) -> None:
    engine = build()
    closes = policy(engine, "closes", ingressDeny=[CLIENTS])
    for edit in range(3):
        engine.set_policy(
            policy(engine, "edited", ingress=[{**CLIENTS, **layer4}, {"fromEntities": ["all"]}] + [{}] * edit)
        )
        if edit == 1:
            engine.set_policy(closes)
        assert differences(engine) == ()
    engine.remove_policy(policy(engine, "edited", ingress=[{}]).key)
    assert not allows(engine, SERVER, CLIENT)
    assert differences(engine) == ()


@pytest.mark.parametrize("layer4", WITHOUT_PORTS.values(), ids=WITHOUT_PORTS)
def test_three_cidr_groups_under_a_rule_without_ports_change_nothing_else(layer4: dict[str, Any]) -> None:
    from meshpolicy import parse_cidr_group

    engine = build()
    peers = {"fromCIDRSet": [{"cidrGroupRef": name} for name in ("one", "two", "three")]}
    engine.set_policy(policy(engine, ingress=[{**peers, **layer4}]))
    for name, cidr in (("one", "192.0.2.0/24"), ("two", "198.51.100.0/24"), ("three", "192.0.2.0/24")):
        group = {"kind": "CiliumCIDRGroup", "metadata": {"name": name}, "spec": {"externalCIDRs": [cidr]}}
        engine.set_cidr_group(parse_cidr_group(group))
        assert differences(engine) == ()
    for name in ("three", "one", "two"):
        engine.remove_cidr_group(name)
        assert differences(engine) == ()


def test_a_selection_released_too_often_is_an_error() -> None:
    selections = Selections(dual_stack=False)
    selection = selections.acquire(LabelSelector(()))
    selections.release(selection)
    with pytest.raises(ValueError, match="more often than it was acquired"):
        selections.release(selection)


def test_a_selection_made_anew_is_not_forgotten_by_a_holder_of_the_old_one() -> None:
    selections = Selections(dual_stack=False)
    old = selections.acquire(LabelSelector(()))
    selections.release(old)
    new = selections.acquire(LabelSelector(()))
    with pytest.raises(ValueError, match="released"):
        selections.release(old)
    assert list(selections.all()) == [new]


def _egress(context: PolicyContext, *cidrs: str, section: str = "egress") -> Policy:
    spec = {"endpointSelector": {"matchLabels": {"app": "server"}}, section: [{"toCIDR": list(cidrs)}]}
    return parse_policy({"kind": "CiliumNetworkPolicy", "metadata": {"name": "p"}, "spec": spec}, context)


WORLD, WORLD_IPV4, WORLD_IPV6 = 2, 9, 10


@pytest.mark.parametrize(
    ("cidr", "dual_stack", "selected"),
    [
        ("::/0", False, {WORLD_IPV6}),
        ("::1/0", False, {WORLD_IPV6}),
        ("0.0.0.0/0", False, {WORLD, WORLD_IPV4}),
        ("::/0", True, {WORLD_IPV6}),
        ("0.0.0.0/0", True, {WORLD_IPV4}),
    ],
)
def test_the_whole_prefix_of_a_family_selects_the_world_of_that_family_only(
    cidr: str, dual_stack: bool, selected: set[int]
) -> None:
    engine = build(dual_stack=dual_stack)
    engine.set_policy(_egress(engine.context, cidr))
    (found,) = [numbers for text, numbers in engine.selectors().items() if "/0" in text]
    assert {int(n) for n in found} & {WORLD, WORLD_IPV4, WORLD_IPV6} == selected
