# SPDX-License-Identifier: Apache-2.0
"""Random ClusterNetworkPolicies for histories: few priorities, so that policies tie, and rules that pass on."""

from __future__ import annotations

import random
from typing import Any

APPS = ("a", "b", "c")
NETWORKS = ("10.0.0.0/8", "192.0.2.0/24", "0.0.0.0/0")


def tiered_spec(pick: random.Random) -> dict[str, Any]:
    """One valid spec."""
    spec: dict[str, Any] = {
        "tier": pick.choice(["Admin", "Admin", "Baseline"]),
        "priority": pick.choice([0, 1, 1]),
        "subject": _pods(pick),
    }
    for section, word in pick.sample([("ingress", "from"), ("egress", "to")], pick.randint(1, 2)):
        spec[section] = [_rule(pick, word) for _ in range(pick.randint(1, 3))]
    return spec


def _pods(pick: random.Random) -> dict[str, Any]:
    labels = pick.choice([{}, {"matchLabels": {"app": pick.choice(APPS)}}])
    return pick.choice([{"namespaces": {}}, {"pods": {"podSelector": labels}}, {"pods": {"podSelector": labels}}])


def _rule(pick: random.Random, word: str) -> dict[str, Any]:
    peers = [_pods(pick) for _ in range(pick.randint(1, 2))]
    is_outside = word == "to" and pick.random() < 0.3
    if is_outside:
        peers = [{"networks": pick.sample(NETWORKS, pick.randint(1, 2))}, {"nodes": {}}][: pick.randint(1, 2)]
    rule: dict[str, Any] = {"action": pick.choice(["Accept", "Deny", "Pass", "Pass"]), word: peers}
    match pick.randrange(4):
        case 0:
            rule["protocols"] = [{"tcp": {"destinationPort": {"number": 80}}}]
        case 1:
            rule["protocols"] = [{"tcp": {"destinationPort": {"range": {"start": 80, "end": pick.choice([90, 9000])}}}}]
        case 2 if not is_outside:
            rule["protocols"] = [{"destinationNamedPort": "http"}]
        case _:
            pass
    return rule
