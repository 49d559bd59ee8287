# SPDX-License-Identifier: Apache-2.0
"""Who reaches whom under each kind of ClusterNetworkPolicy: four namespaces, every pair, nine ports of three protocols.

The cases are named after what the conformance suite of network-policy-api asks, each in both tiers and both directions where
the suite has both; the expected verdicts are Cilium's. Where the text of Kubernetes says something else, the case says so.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, Final, NamedTuple

import pytest

from meshpolicy.evaluate import evaluate_case

SPACES: Final = ("g", "h", "r", "s")
PODS: Final = tuple((space, number) for space in SPACES for number in "01")
PORTS: Final = [
    ("TCP", 80), ("TCP", 8080), ("TCP", 443), ("UDP", 53), ("UDP", 5353), ("UDP", 54), ("SCTP", 9003), ("SCTP", 9005),
    ("SCTP", 9006),
]  # fmt: skip
NAMESPACE: Final = "io.kubernetes.pod.namespace"
NAMESPACE_LABELS: Final = "io.cilium.k8s.namespace.labels."
Pod = tuple[str, str]
Port = tuple[str, int]
Verdict = Callable[[Pod, Port], bool]


class Case(NamedTuple):
    """Policies about namespace g, and what its pods let through by peer and port, in the direction that is tried."""

    documents: list[dict[str, Any]]
    allowed: Verdict


def spaces(*names: str) -> dict[str, Any]:
    if len(names) == 1:
        return {"namespaces": {"matchLabels": {"name": names[0]}}}
    return {"namespaces": {"matchExpressions": [{"key": "name", "operator": "In", "values": list(names)}]}}


def pods(labels: dict[str, str], **namespaces: str) -> dict[str, Any]:
    where = {"namespaceSelector": {"matchLabels": namespaces}} if namespaces else {}
    return {"pods": {"podSelector": {"matchLabels": labels}, **where}}


def rule(action: str, *peers: dict[str, Any], ports: list[Port | tuple[str, int, int]] | None = None) -> dict[str, Any]:
    entry: dict[str, Any] = {"action": action, "peers": list(peers)}
    if ports is not None:
        entry["protocols"] = [
            {
                p[0].lower(): {
                    "destinationPort": {"number": p[1]} if len(p) == 2 else {"range": {"start": p[1], "end": p[2]}}
                }
            }
            for p in ports
        ]
    return entry


def kcnp(*rules: dict[str, Any], tier: str = "Admin", priority: int = 10, **more: Any) -> dict[str, Any]:
    """A policy of which the direction is chosen by the test."""
    return {"tier": tier, "priority": priority, "subject": spaces("g"), "rules": list(rules), **more}


def three_peers(allow: list[Port], deny: list[Port], tier: str) -> Case:
    """From r everything (accept before deny and pass), from s not one port (deny before pass), from h one port only."""
    last = [rule("Pass", spaces("r"))] if tier == "Admin" else []
    pass_s = [rule("Pass", spaces("s"), ports=[*deny])] if tier == "Admin" else []
    document = kcnp(
        rule("Accept", spaces("r")),
        rule("Deny", spaces("r")),
        *last,
        rule("Deny", spaces("s"), ports=[*deny]),
        *pass_s,
        rule("Accept", spaces("h"), ports=[*allow]),
        rule("Deny", spaces("h")),
        tier=tier,
    )
    return Case(
        [document],
        lambda peer, port: {"g": True, "r": True, "s": port not in deny, "h": port in allow}[peer[0]],
    )


def isolating(*peers: dict[str, Any]) -> dict[str, Any]:
    """A NetworkPolicy of namespace g for the direction that is tried."""
    return {"kubernetes": list(peers)}


BY_SPACE: Final = {"namespaceSelector": {"matchLabels": {"name": "s"}}}
FROM_S: Final = spaces("s")
CASES: Final = {
    **{
        f"{tier}: {name} rules in order": three_peers(allow, deny, tier)
        for tier in ("Admin", "Baseline")
        for name, allow, deny in (
            ("TCP", [("TCP", 80)], [("TCP", 80)]),
            ("UDP", [("UDP", 53)], [("UDP", 5353)]),
            ("SCTP", [("SCTP", 9003)], [("SCTP", 9003)]),
            ("combined", [("TCP", 8080), ("UDP", 5353), ("SCTP", 9003)], [("TCP", 80), ("UDP", 53), ("SCTP", 9003)]),
        )
    },
    **{
        f"{tier}: port ranges, and a denial of the rest": Case(
            [
                kcnp(
                    rule("Accept", spaces("r"), ports=[("TCP", 80, 8080)]),
                    rule("Accept", spaces("h"), ports=[("UDP", 53, 5353)]),
                    rule("Accept", spaces("s"), ports=[("SCTP", 9003, 9005)]),
                    rule("Deny", {"namespaces": {"matchExpressions": [{"key": "name", "operator": "Exists"}]}}),
                    tier=tier,
                )
            ],
            lambda peer, port: (
                (peer[0], port[0]) in (("r", "TCP"), ("h", "UDP"))
                or (peer[0] == "s" and port in (("SCTP", 9003), ("SCTP", 9005)))
            ),
        )
        for tier in ("Admin", "Baseline")
    },
    "Admin: pods by label in every namespace": Case(
        [kcnp(rule("Deny", pods({"house": "r"})), rule("Deny", pods({"pod": "0"}, name="h")))],
        lambda peer, port: peer[0] != "r" and peer != ("h", "0"),
    ),
    "Admin: a subject by label": Case(
        [kcnp(rule("Deny", FROM_S), subject=pods({"house": "g"}))], lambda peer, port: peer[0] != "s"
    ),
    "Admin: a subject of other pods says nothing": Case(
        [kcnp(rule("Deny", FROM_S), subject=pods({"house": "r"}))], lambda peer, port: True
    ),
    **{
        f"{tier}: a subject of one pod of one namespace": Case(
            [
                kcnp(rule("Deny", FROM_S), subject=pods({"pod": "0"}, name="g"), tier=tier),
                kcnp(rule("Deny", spaces("r")), subject=pods({"pod": "1"}, name="g"), tier=tier),
                kcnp(rule("Deny", spaces("h")), subject=pods({"pod": "0"}, name="r"), tier=tier),
            ],
            lambda peer, port: peer[0] != "s",
        )
        for tier in ("Admin", "Baseline")
    },
    **{
        f"{tier}: namespaces by {operator}": Case(
            [
                kcnp(
                    rule("Deny", {"namespaces": {"matchExpressions": [{"operator": operator, **expression}]}}),
                    tier=tier,
                )
            ],
            lambda peer, port, denied=denied: peer[0] not in denied,
        )
        for tier in ("Admin", "Baseline")
        for operator, expression, denied in (
            ("NotIn", {"key": "name", "values": ["g", "r"]}, "sh"),
            ("DoesNotExist", {"key": "other"}, "grsh"),
            ("Exists", {"key": "other"}, ""),
        )
    },
    **{
        f"{tier}: a port by name, of each protocol that has it": Case(
            [kcnp({**rule("Deny", FROM_S), "protocols": [{"destinationNamedPort": "dns"}]}, tier=tier)],
            lambda peer, port: peer[0] != "s" or port != ("UDP", 53),
        )
        for tier in ("Admin", "Baseline")
    },
    "Admin: the lower priority number decides": Case(
        [kcnp(rule("Deny", FROM_S), priority=50), kcnp(rule("Pass", FROM_S), priority=60)],
        lambda peer, port: peer[0] != "s",
    ),
    "Baseline: the lower priority number decides": Case(
        [
            kcnp(rule("Accept", FROM_S), priority=40, tier="Baseline"),
            kcnp(rule("Deny", spaces("s", "r")), priority=50, tier="Baseline"),
        ],
        lambda peer, port: peer[0] != "r",
    ),
    "Admin: a pass before a denial leaves it to the next tier": Case(
        [
            kcnp(rule("Deny", FROM_S), priority=50),
            kcnp(rule("Pass", FROM_S), priority=40),
            kcnp(rule("Accept", FROM_S), tier="Baseline"),
        ],
        lambda peer, port: True,
    ),
    # Kubernetes: any of the two may be taken. Cilium, and here: the denial.
    "Admin: of two policies of one priority the denial decides": Case(
        [kcnp(rule("Accept", FROM_S)), kcnp(rule("Deny", FROM_S)), kcnp(rule("Pass", FROM_S))],
        lambda peer, port: peer[0] != "s",
    ),
    # Kubernetes: any of the two may be taken. Cilium, and here: rules of one priority lie side by side by their place.
    "Admin: policies of one priority are read rule by rule": Case(
        [
            kcnp(rule("Deny", spaces("r")), rule("Accept", FROM_S)),
            kcnp(rule("Deny", spaces("h")), rule("Deny", FROM_S)),
        ],
        lambda peer, port: peer[0] == "g",
    ),
    "a denial of the Admin tier before a NetworkPolicy that allows": Case(
        [kcnp(rule("Deny", FROM_S)), isolating(BY_SPACE)], lambda peer, port: False
    ),
    "a pass to a NetworkPolicy that allows": Case(
        [kcnp(rule("Pass", FROM_S)), isolating(BY_SPACE), kcnp(rule("Deny", FROM_S), tier="Baseline")],
        lambda peer, port: peer[0] == "s",
    ),
    "a pass to the Baseline tier that denies": Case(
        [kcnp(rule("Pass", FROM_S)), kcnp(rule("Deny", FROM_S), tier="Baseline")], lambda peer, port: peer[0] != "s"
    ),
    "a pass of some ports only": Case(
        [
            kcnp(rule("Pass", FROM_S, ports=[("TCP", 80)]), rule("Deny", FROM_S)),
            kcnp(rule("Deny", FROM_S, ports=[("TCP", 1, 443)]), tier="Baseline"),
        ],
        lambda peer, port: peer[0] != "s",
    ),
    "an acceptance of the Admin tier opens what a NetworkPolicy isolates": Case(
        [kcnp(rule("Accept", spaces("r"))), isolating()], lambda peer, port: peer[0] == "r"
    ),
    # In Cilium the Baseline rule opens h. Kubernetes, and here: a NetworkPolicy decides for the pods that it selects.
    "a NetworkPolicy before an acceptance of the Baseline tier": Case(
        [isolating(BY_SPACE), kcnp(rule("Accept", spaces("h")), tier="Baseline")], lambda peer, port: peer[0] == "s"
    ),
    "an isolation by Kubernetes passed on is an isolation": Case(
        [kcnp(rule("Pass", spaces("r"))), isolating()], lambda peer, port: False
    ),
    "a pass in the Baseline tier ends at the default": Case(
        [kcnp(rule("Pass", FROM_S), rule("Deny", spaces("s", "r")), tier="Baseline")], lambda peer, port: peer[0] != "r"
    ),
}
EGRESS_CASES: Final = {
    # Kubernetes: the addresses of pods are in the network too. Cilium by default, and here: those outside of the mesh only.
    "a network selects no pods": Case(
        [kcnp(rule("Accept", FROM_S), rule("Deny", {"networks": ["0.0.0.0/0", "::/0"]}))], lambda peer, port: True
    ),
}


def written(document: dict[str, Any], direction: str, name: str) -> dict[str, Any]:
    """The document with its rules in the section and under the field of the direction."""
    word = "from" if direction == "ingress" else "to"
    if "kubernetes" in document:
        rules = [{word: document["kubernetes"]}] if document["kubernetes"] else []
        spec: dict[str, Any] = {"podSelector": {}, "policyTypes": [direction.capitalize()], direction: rules}
        return {"kind": "NetworkPolicy", "metadata": {"name": name, "namespace": "g"}, "spec": spec}
    spec = {key: value for key, value in document.items() if key != "rules"}
    spec[direction] = [{**{k: v for k, v in r.items() if k != "peers"}, word: r["peers"]} for r in document["rules"]]
    return {"kind": "ClusterNetworkPolicy", "metadata": {"name": name}, "spec": spec}


@pytest.mark.parametrize(
    ("direction", "title"),
    [*product(("ingress", "egress"), CASES), *(("egress", title) for title in EGRESS_CASES)],
)
def test_every_peer_on_every_port(direction: str, title: str) -> None:
    """The direction that is not named is open for every pair: a policy says nothing about it."""
    case = {**CASES, **EGRESS_CASES}[title]
    ids = {
        f"{space}{number}": [
            f"k8s:house={space}",
            f"k8s:pod={number}",
            f"k8s:{NAMESPACE}={space}",
            f"k8s:{NAMESPACE_LABELS}name={space}",
            "k8s:io.cilium.k8s.policy.cluster=north",
        ]
        for space, number in PODS
    }
    is_in = direction == "ingress"
    tried = [(peer, port) for peer in PODS if peer != ("g", "0") for port in PORTS]
    ends = [("".join(peer), "g0") if is_in else ("g0", "".join(peer)) for peer, _ in tried]
    answer: Any = evaluate_case(
        {
            "cluster": "north",
            "scope": "north",
            "ids": ids,
            "namedPorts": {key: {"dns": [53, "UDP"]} for key in ids},
            "policies": [written(document, direction, f"p{n}") for n, document in enumerate(case.documents)],
            "flows": [[*pair, *port] for pair, (_, port) in zip(ends, tried, strict=True)],
        }
    )
    assert answer["errors"] == []
    found = {key: tuple(verdict) for key, verdict in zip(tried, answer["verdicts"], strict=True)}
    words = {True: "allowed", False: "denied"}
    expected = {key: words[case.allowed(*key)] for key in tried}
    # both ends may be pods of g: then the peer's own side is judged by the same rules about g0
    assert {key: verdict[1 if is_in else 0] for key, verdict in found.items()} == expected
    assert all(verdict[0 if is_in else 1] == "allowed" for verdict in found.values())
