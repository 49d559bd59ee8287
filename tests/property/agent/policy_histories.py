# SPDX-License-Identifier: Apache-2.0
"""Long random histories of the policy compiler's inputs, and the shortest part of one that still fails.

One seed gives one history on any machine. Documents come from small alphabets so that rules of several policies hold the
same selections; rules without an effective port, groups that come and go and identities that change labels are frequent.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from history_world import FAMILIES, NORTH, SOUTH, TOLD, Step
from kubernetes_histories import NAMESPACE_LABELS, kubernetes_spec
from tiered_histories import tiered_spec

WORLDS = ("world", "world-ipv4", "world-ipv6")
APPS, NAMESPACES = ("a", "b", "c"), ("one", "two")
CIDRS = ("10.0.0.0/8", "10.1.0.0/16", "192.0.2.0/24", "0.0.0.0/0", "::/0", "fd00::/8")
SERVICES = ("s1", "s2")
HOSTS, PATTERNS = ("a.example.", "b.example.", "c.d.example."), ("a.example", "*.example", "**.example", "*")
BACKENDS = ("10.9.0.1", "10.9.0.2", "10.9.0.3", "10.9.0.9", "192.0.2.7")
GROUPS = ("g1", "g2", "g3")
ANNOTATIONS = (*[""] * 8, "false", "yes", "true", "TRUE")
"""Of the policy, whether it is staged."""
NUMBERS = (300, 301, 302, 303, 131_372)
KINDS = (
    *("policy",) * 6, *("tiered",) * 3, *("kubernetes",) * 2, "unkubernetes", "refused", "untiered", "host", "host", "unhost",
    "service", "service", "backends", "backends", "noservice", "drop", "drop", "group", "ungroup", "identity", "forget",
    "pod", "unpod", "ports", "node", "node", "nonode", "told", "told", "restart", "restart", "written", "written", "written",
)  # fmt: skip
"""Of a step: as likely as it is often here."""


def history(seed: int, length: int) -> list[Step]:
    """The steps that a seed stands for."""
    return list(_steps(random.Random(seed), length))


def _steps(pick: random.Random, length: int) -> Iterator[Step]:
    for _ in range(length):
        kind = pick.choice(KINDS)
        name = (pick.choice(NAMESPACES), pick.choice("pqr"))
        match kind:
            case "policy" | "kubernetes":
                yield (
                    kind,
                    *name,
                    *((cilium_spec(pick), pick.choice(ANNOTATIONS)) if kind == "policy" else (kubernetes_spec(pick),)),
                )
            case "tiered" | "untiered" | "host" | "unhost":
                make = {"tiered": tiered_spec, "host": _host_spec}.get(kind)
                yield kind, pick.choice("tuv"), *([] if make is None else [make(pick)])
            case "drop" | "unkubernetes" | "refused":
                yield kind, *name
            case "group":
                yield kind, pick.choice(GROUPS), tuple(pick.sample(CIDRS, pick.randint(0, 3))), pick.choice(APPS)
            case "ungroup":
                yield kind, pick.choice(GROUPS)
            case "identity":
                yield (
                    kind,
                    pick.choice(NUMBERS),
                    pick.choice(APPS),
                    pick.choice(NAMESPACES),
                    pick.choice([NORTH, SOUTH]),
                    pick.choice(NAMESPACE_LABELS),
                )
            case "pod":
                yield kind, pick.randint(1, 4), pick.choice(NUMBERS), pick.choice([0, 80, 8080])
            case "forget" | "unpod":
                yield kind, pick.choice(NUMBERS) if kind == "forget" else pick.randint(1, 4)
            case "ports":
                yield kind, pick.randint(1, 4), pick.choice([0, 80, 8080])
            case "node" | "nonode":
                yield kind, pick.choice([NORTH, SOUTH]), pick.randint(1, 2), pick.choice(APPS), pick.choice(["", "x"])
            case _:
                yield _other_step(pick, kind)


def _settings(pick: random.Random) -> tuple[bool, str, bool]:
    """Scope, families and proxies of an agent that starts."""
    return pick.random() < 0.5, pick.choice(FAMILIES), pick.random() < 0.5


def _other_step(pick: random.Random, kind: str) -> Step:
    if kind == "told":
        return kind, pick.choice(HOSTS), tuple(pick.sample(TOLD, pick.randint(0, 3)))
    if kind == "restart":
        return kind, *_settings(pick)
    if kind == "written":
        return kind, pick.random() < 0.7
    name = (pick.choice(SERVICES), pick.choice(NAMESPACES))
    if kind == "service":
        return kind, *name, pick.choice(APPS), pick.random() < 0.5
    if kind == "backends":
        return kind, *name, pick.choice([NORTH, SOUTH]), tuple(pick.sample(BACKENDS, pick.randint(0, 3)))
    return kind, *name


def cilium_spec(pick: random.Random) -> dict[str, Any]:
    spec: dict[str, Any] = {"endpointSelector": _selector(pick)}
    for section in pick.sample(["ingress", "ingressDeny", "egress", "egressDeny"], pick.randint(1, 3)):
        spec[section] = [_rule(pick, section) for _ in range(pick.randint(1, 3))]
    if pick.random() < 0.2:
        spec["enableDefaultDeny"] = {pick.choice(["ingress", "egress"]): pick.random() < 0.5}
    return spec


def _host_spec(pick: random.Random) -> dict[str, Any]:
    """A spec about nodes; HTTP rules are refused there."""
    spec = cilium_spec(pick)
    del spec["endpointSelector"]
    for rule in (rule for section in spec.values() if isinstance(section, list) for rule in section):
        for port in rule.get("toPorts", ()):
            port.pop("rules", None)
    return {"nodeSelector": _node_selector(pick), **spec}


def _selector(pick: random.Random) -> dict[str, Any]:
    return pick.choice(
        [{}, {"matchLabels": {"app": pick.choice(APPS)}}, {"matchLabels": {"k8s:app": pick.choice(APPS)}}]
    )


def _peer(pick: random.Random) -> dict[str, Any]:
    """Pods, or outsiders by their label."""
    if pick.random() < 0.8:
        return _selector(pick)
    return {
        "matchExpressions": [
            {"key": f"reserved:{pick.choice(WORLDS)}", "operator": pick.choice(["Exists", "DoesNotExist"])}
        ]
    }


def _rule(pick: random.Random, section: str) -> dict[str, Any]:
    word = "from" if section.startswith("in") else "to"
    rule: dict[str, Any] = {}
    match pick.randrange(9 if section == "egress" else 8 if word == "to" else 6):
        case 6 | 7 | 8 as kind:
            rule.update(_services_or_names(pick, is_names=kind == 8))
        case 0 | 1:
            rule[f"{word}Endpoints"] = [_peer(pick) for _ in range(pick.randint(0, 2))]
        case 2:
            rule[f"{word}CIDR"] = pick.sample(CIDRS, pick.randint(0, 2))
        case 3:
            rule[f"{word}CIDRSet"] = [_group_peer(pick, name) for name in pick.sample(GROUPS, pick.randint(1, 3))]
        case 4 if pick.random() < 0.5:
            rule[f"{word}Entities"] = [pick.choice(["all", *WORLDS, "cluster", "host", "remote-node"])]
        case 4:
            rule[f"{word}Nodes"] = [_node_selector(pick) for _ in range(pick.randint(0, 2))]
        case _:
            pass
    match pick.randrange(7):
        case 0:
            rule["toPorts"] = [{"ports": []}]
        case 1:
            rule["toPorts"] = [{}]
        case 2:
            rule["icmps"] = [{"fields": []}]
        case 3:
            rule["toPorts"] = [{"ports": [{"port": pick.choice(["80", "http", "0"]), "protocol": "TCP"}]}]
        case 4 if not section.endswith("Deny"):
            rule["toPorts"] = [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": _looked_into(pick, section)}]
        case _:
            pass
    return rule


def _group_peer(pick: random.Random, name: str) -> dict[str, Any]:
    """A group by its name or by its labels, some with an exception."""
    by_labels: dict[str, Any] = {"cidrGroupSelector": {"matchLabels": {"app": pick.choice(APPS)}}}
    peer: dict[str, Any] = {"cidrGroupRef": name} if pick.random() < 0.6 else by_labels
    return {**peer, "except": ["10.1.0.0/16"]} if pick.random() < 0.2 else peer


def _looked_into(pick: random.Random, section: str) -> dict[str, Any]:
    is_names = section == "egress" and pick.random() < 0.5
    return {"dns": [{"matchPattern": pick.choice(PATTERNS)}]} if is_names else {"http": [{"method": "GET"}]}


def _services_or_names(pick: random.Random, *, is_names: bool) -> dict[str, Any]:
    if is_names:
        return {"toFQDNs": [{"matchPattern": pattern} for pattern in pick.sample(PATTERNS, pick.randint(0, 2))]}
    return {"toServices": [_service(pick) for _ in range(pick.randint(1, 2))]}


def _node_selector(pick: random.Random) -> dict[str, Any]:
    tier = {"key": "tier", "operator": pick.choice(["Exists", "DoesNotExist"])}
    return pick.choice([{}, {"matchLabels": {"app": pick.choice(APPS)}}, {"matchExpressions": [tier]}])


def _service(pick: random.Random) -> dict[str, Any]:
    where = pick.choice([{}, {"namespace": pick.choice(NAMESPACES)}])
    if pick.random() < 0.5:
        return {"k8sService": {"serviceName": pick.choice(SERVICES), **where}}
    return {"k8sServiceSelector": {"selector": _selector(pick), **where}}


def shortest(steps: list[Step], fails: Callable[[list[Step]], bool]) -> list[Step]:
    """A part of the history, in order, that still fails and of which no single step can be left out."""
    size = max(1, len(steps) // 2)
    while True:
        start, was_cut = 0, False
        while start < len(steps):
            rest = steps[:start] + steps[start + size :]
            if fails(rest):
                steps, was_cut = rest, True
            else:
                start += size
        if size == 1 and not was_cut:
            return steps
        size = max(1, size // 2)
