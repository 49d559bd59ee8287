# SPDX-License-Identifier: Apache-2.0
"""A cluster that is no peer any more is the world: the status says which rules that opens."""

from __future__ import annotations

from typing import Any

from agent.policy.rows import describe_widening
from meshmodel.names import ClusterName
from meshpolicy import Policy, PolicyContext, parse_policy

SOUTH = {ClusterName("south"): ("10.2.0.0/24",)}


def policy(peers: dict[str, Any]) -> Policy:
    document = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "open", "namespace": "shop"},
        "spec": {"endpointSelector": {}, "ingress": [peers]},
    }
    return parse_policy(document, PolicyContext("north"))


def test_rules_for_the_world_and_for_its_addresses_are_named() -> None:
    (world,) = describe_widening([policy({"fromEntities": ["world"]})], SOUTH)
    assert "south is no peer any more" in world
    assert "10.2.0.0/24" in world
    assert "shop/open" in world
    (address,) = describe_widening([policy({"fromCIDR": ["10.0.0.0/8"]})], SOUTH)
    assert "10.0.0.0/8" in address


def test_rules_for_pods_and_for_other_addresses_are_not() -> None:
    harmless = [policy({"fromEndpoints": [{}]}), policy({"fromCIDR": ["192.0.2.0/24"]})]
    assert describe_widening(harmless, SOUTH) == []
    assert describe_widening([policy({"fromEntities": ["world"]})], {}) == []
