# SPDX-License-Identifier: Apache-2.0
"""Random NetworkPolicies for histories: peers by namespace label, blocks with holes, port names, directions without rules."""

from __future__ import annotations

import random
from typing import Any

APPS = ("a", "b", "c")
NAMESPACE_LABELS: tuple[dict[str, str], ...] = ({}, {"team": "x"}, {"team": "y"}, {"team": "x", "env": "p"})
PORTS: tuple[dict[str, Any], ...] = (
    {"port": 80},
    {"port": "http"},
    {"port": "http", "protocol": "UDP"},
    {"protocol": "SCTP"},
    {"port": 80, "endPort": 90},
)
BLOCKS: tuple[dict[str, Any], ...] = (
    {"cidr": "10.0.0.0/8"},
    {"cidr": "::/0"},
    {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "192.0.2.0/24"]},
)


def kubernetes_spec(pick: random.Random) -> dict[str, Any]:
    """One valid spec."""
    spec: dict[str, Any] = {
        "podSelector": _pods(pick),
        "policyTypes": pick.choice([["Ingress"], ["Egress"], ["Ingress", "Egress"]]),
    }
    for section, word in pick.sample([("ingress", "from"), ("egress", "to")], pick.randint(0, 2)):
        spec[section] = [_rule(pick, word) for _ in range(pick.randint(0, 2))]
    return spec


def _pods(pick: random.Random) -> dict[str, Any]:
    other = {"key": "app", "operator": "NotIn", "values": [pick.choice(APPS)]}
    return pick.choice([{}, {"matchLabels": {"app": pick.choice(APPS)}}, {"matchExpressions": [other]}])


def _rule(pick: random.Random, word: str) -> dict[str, Any]:
    rule: dict[str, Any] = {}
    if pick.random() < 0.8:
        rule[word] = [_peer(pick) for _ in range(pick.randint(0, 2))]
    if pick.random() < 0.5:
        rule["ports"] = [pick.choice(PORTS) for _ in range(pick.randint(1, 2))]
    return rule


def _peer(pick: random.Random) -> dict[str, Any]:
    team = {"key": "team", "operator": pick.choice(["In", "NotIn"]), "values": ["x"]}
    namespaces = pick.choice([{}, {"matchLabels": {"team": "x"}}, {"matchExpressions": [team]}])
    return pick.choice(
        [
            {"podSelector": _pods(pick)},
            {"namespaceSelector": namespaces},
            {"namespaceSelector": namespaces, "podSelector": _pods(pick)},
            {"ipBlock": pick.choice(BLOCKS)},
        ]
    )
