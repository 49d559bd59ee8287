# SPDX-License-Identifier: Apache-2.0
"""Groups of ranges by their labels: a selector that is empty, or says what is not, means groups and never pods."""

from __future__ import annotations

from typing import Any

import pytest
from policy_world import SERVER, WHO, build, policy

from meshmodel.identity import NumericIdentity, Reserved
from meshpolicy import Direction, Engine, parse_cidr_group
from meshpolicy.evaluate import evaluate

SELECTORS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "empty": ({}, {"a", "b"}),
    "NotIn": ({"matchExpressions": [{"key": "of", "operator": "NotIn", "values": ["a"]}]}, {"b"}),
    "DoesNotExist": ({"matchExpressions": [{"key": "of", "operator": "DoesNotExist"}]}, set()),
}
PREFIXES = {"a": "192.0.2.0/24", "b": "198.51.100.0/24"}
OTHERS = (*WHO, Reserved.HOST, Reserved.WORLD, Reserved.REMOTE_NODE, Reserved.WORLD_IPV6)


def open_to(engine: Engine) -> set[NumericIdentity | str]:
    """The prefixes, and the identities beside them, that the server may reach."""
    found = engine.endpoint_policy(SERVER)
    numbers = {**engine.prefixes(), **{str(int(number)): number for number in OTHERS}}
    return {text for text, number in numbers.items() if found.verdict(Direction.EGRESS, number, 6, 80).allowed}


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("has_groups", [False, True])
@pytest.mark.parametrize("denies", [False, True])
def test_a_selector_of_groups_means_what_is_in_them_and_nobody_without_one(
    name: str, has_groups: bool, denies: bool
) -> None:
    """On Cilium an empty one means every identity."""
    selector, groups = SELECTORS[name]
    engine = build()
    everybody = [{"toEntities": ["all"]}]
    peers = [{"toCIDRSet": [{"cidrGroupSelector": selector}]}]
    engine.set_policy(policy(engine, **({"egress": everybody, "egressDeny": peers} if denies else {"egress": peers})))
    if has_groups:
        for group, prefix in PREFIXES.items():
            metadata = {"name": group, "labels": {"of": group}}
            engine.set_cidr_group(parse_cidr_group({"metadata": metadata, "spec": {"externalCIDRs": [prefix]}}))
    meant = {PREFIXES[group] for group in groups} if has_groups else set()
    others = {str(int(number)) for number in OTHERS}
    assert engine.prefixes().keys() == meant
    assert open_to(engine) == (others if denies else meant)


@pytest.mark.parametrize("layer4", [{"toPorts": [{"ports": []}]}, {"toPorts": [{}]}, {"icmps": [{"fields": []}]}])
def test_a_case_with_groups_under_a_rule_without_ports_is_judged(layer4: dict[str, Any]) -> None:
    groups = [
        {"kind": "CiliumCIDRGroup", "metadata": {"name": name}, "spec": {"externalCIDRs": ["192.0.2.0/24"]}}
        for name in ("one", "two", "three")
    ]
    peers = {"fromCIDRSet": [{"cidrGroupRef": name} for name in ("one", "two", "three")]}
    spec = {"endpointSelector": {}, "ingress": [{**peers, **layer4}], "ingressDeny": [peers]}
    closes = {"kind": "CiliumNetworkPolicy", "metadata": {"name": "p", "namespace": "default"}, "spec": spec}
    case = {
        "ids": {"web": ["k8s:io.kubernetes.pod.namespace=default"]},
        "ips": {"partner": "192.0.2.7"},
        "policies": [closes, *groups],
        "flows": [["partner", "web", "TCP", 80]],
    }
    answer: Any = evaluate(case)
    assert (answer["verdicts"], answer["errors"]) == ([["allowed", "denied"]], [])
