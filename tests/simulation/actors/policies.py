# SPDX-License-Identifier: Apache-2.0
"""Policies of every kind, over few labels and ports, so that they meet and contradict each other.

What `policies_in_force` of `checks/policies.py` must know of them: documents named `BROKEN` are valid in none of their forms.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, Final

from tests.simulation.actors.plan import NAMESPACES, SERVICES, Plan
from tests.simulation.steps import Step, step

BROKEN: Final = "broken"
GROUPS: Final = ("partners", "offices")
NETWORKS: Final = ("198.51.100.0/24", "198.51.100.7/32", "203.0.113.0/24", "10.0.0.0/8", "0.0.0.0/0", "::/0")
Document = dict[str, Any]
Spec = dict[str, Any]


def put_policy(plan: Plan) -> Iterator[Step]:
    """A CiliumNetworkPolicy of a namespace, in one cluster."""
    namespace, name = plan.service()[0], plan.rng.choice("pq")
    yield step("put", plan.cluster(), "policy", cilium(namespace, name, cilium_spec(plan.rng, plan.focus[1])))


def put_network_policy(plan: Plan) -> Iterator[Step]:
    namespace, name = plan.service()[0], plan.rng.choice("mn")
    yield step("put", plan.cluster(), "networkpolicy", _named(namespace, name, kubernetes_spec(plan.rng)))


def put_clusterwide(plan: Plan) -> Iterator[Step]:
    document = _named("", plan.rng.choice("uv"), cilium_spec(plan.rng, plan.focus[1]))
    yield step("put", plan.cluster(), "clusterwide", document)


def put_tiered(plan: Plan) -> Iterator[Step]:
    """A ClusterNetworkPolicy: what goes before and after those of namespaces."""
    yield step("put", plan.cluster(), "tiered", _named("", plan.rng.choice("st"), tiered_spec(plan.rng)))


def change_group(plan: Plan) -> Iterator[Step]:
    """Networks that rules name by a group: others, none, or the group is gone."""
    cluster, name = plan.cluster(), plan.rng.choice(GROUPS)
    if plan.rng.random() < 0.25:
        yield step("del", cluster, "cidrgroup", name)
    else:
        networks = plan.rng.sample(NETWORKS, plan.rng.randint(0, 2))
        yield step("put", cluster, "cidrgroup", _named("", name, {"externalCIDRs": networks}))


def rely_on_group(plan: Plan) -> Iterator[Step]:
    """A rule names networks by a group, which changes some time after it."""
    namespace, app = plan.focus
    cluster, name = plan.cluster(), plan.rng.choice(GROUPS)
    section, word = plan.rng.choice((("ingress", "from"), ("egress", "to"), ("egressDeny", "to")))
    rule = {f"{word}CIDRSet": [{"cidrGroupRef": name}]}
    spec = {"endpointSelector": {"matchLabels": {"app": app}}, section: [rule]}
    yield step("put", cluster, "cidrgroup", _named("", name, {"externalCIDRs": [plan.rng.choice(NETWORKS)]}))
    yield step("put", cluster, "policy", cilium(namespace, plan.rng.choice("pq"), spec))
    networks = plan.rng.sample(NETWORKS, plan.rng.randint(0, 2))
    plan.after(
        plan.rng.randrange(1, 12), step("put", cluster, "cidrgroup", _named("", name, {"externalCIDRs": networks}))
    )


def delete_policies(plan: Plan) -> Iterator[Step]:
    cluster, namespace = plan.cluster(), plan.service()[0]
    kind, names = plan.rng.choice((("policy", "pq"), ("networkpolicy", "mn"), ("clusterwide", "uv"), ("tiered", "st")))
    for name in names:
        is_inside = kind in ("policy", "networkpolicy")
        yield step("del", cluster, kind, f"{namespace}/{name}" if is_inside else name)


def edit_policy_three_times(plan: Plan) -> Iterator[Step]:
    """Two policies about the same peers, a denial between the edits, rules without ports, and one of them deleted."""
    namespace, app = plan.focus
    cluster, peer = plan.cluster(), _selector(plan.rng)
    subject = {"matchLabels": {"app": app}}
    allows = [{"fromEndpoints": [peer], "toPorts": [{"ports": []}]}, {"fromEntities": ["all"]}]
    for rules in (allows, [{"fromEndpoints": [peer]}], allows[1:]):
        yield step(
            "put", cluster, "policy", cilium(namespace, "p", {"endpointSelector": subject, "ingress": list(rules)})
        )
        if plan.rng.random() < 0.6:
            deny = {"endpointSelector": subject, "ingressDeny": [{"fromEndpoints": [peer]}]}
            yield step("put", cluster, "policy", cilium(namespace, "q", deny))
        if plan.rng.random() < 0.5:
            yield step("wait", "0.5")
    if plan.rng.random() < 0.5:
        yield step("del", cluster, "policy", f"{namespace}/{plan.rng.choice('pq')}")


def restart_behind_denial(plan: Plan) -> Iterator[Step]:
    """A node's agent starts again when what is denied has been denied for long; it may be slow to hear of it."""
    namespace, app = plan.focus
    cluster = plan.cluster()
    node = plan.node(cluster)
    section, entities = plan.rng.choice((("ingress", "fromEntities"), ("egress", "toEntities")))
    rules: Spec = {f"{section}Deny": [{entities: ["all"]}]} if plan.rng.random() < 0.2 else {section: [{}]}
    spec = {"endpointSelector": {"matchLabels": {"app": app}}, **rules}
    yield step("put", cluster, "policy", cilium(namespace, plan.rng.choice("pq"), spec))
    yield step("wait", "9")
    yield step("wait", "1")  # what is denied then is denied for good
    if plan.rng.random() < 0.7:
        yield step("slow", node, f"kube.{cluster}", "0.5")
    yield step("crash", node)
    yield step("wait", "9")
    yield step("slow", node, f"kube.{cluster}", "0")


def break_policy(plan: Plan) -> Iterator[Step]:
    """What no API server that knows the fields would store: refused whole, and said so."""
    namespace, cluster = plan.service()[0], plan.cluster()
    bad: tuple[Spec, ...] = (
        {"endpointSelector": {}, "ingress": [{"fromEndpoint": []}]},
        {"endpointSelector": {}, "egress": [{"toCIDR": ["10.0.0.0/33"]}]},
        {"endpointSelector": {"matchExpressions": [{"key": "app", "operator": "Near"}]}, "ingress": [{}]},
        {"endpointSelector": {}, "ingress": [{"toPorts": [{"ports": [{"port": "70000", "protocol": "TCP"}]}]}]},
        {"ingress": "everything"},
    )
    yield step("put", cluster, "policy", cilium(namespace, BROKEN, plan.rng.choice(bad)))
    if plan.rng.random() < 0.3:
        yield step("del", cluster, "policy", f"{namespace}/{BROKEN}")


# ---- documents


def cilium(namespace: str, name: str, spec: Spec) -> Document:
    return _named(namespace, name, spec)


def cilium_spec(rng: random.Random, app: str) -> Spec:
    """Valid; it selects the pods of `app` half of the time."""
    subject = {"matchLabels": {"app": app}} if rng.random() < 0.5 else _selector(rng)
    spec: Spec = {"endpointSelector": subject}
    for section in rng.sample(["ingress", "ingressDeny", "egress", "egressDeny"], rng.randint(1, 3)):
        spec[section] = [_cilium_rule(rng, section) for _ in range(rng.randint(1, 2))]
    if rng.random() < 0.15:
        spec["enableDefaultDeny"] = {rng.choice(["ingress", "egress"]): rng.random() < 0.5}
    return spec


def _cilium_rule(rng: random.Random, section: str) -> Spec:
    word = "from" if section.startswith("in") else "to"
    rule: Spec = {}
    match rng.randrange(7):
        case 0 | 1 | 2:
            rule[f"{word}Endpoints"] = [_far_selector(rng) for _ in range(rng.randint(0, 2))]
        case 3:
            rule[f"{word}CIDR"] = rng.sample(NETWORKS, rng.randint(1, 2))
        case 4:
            rule[f"{word}CIDRSet"] = [{"cidrGroupRef": rng.choice(GROUPS)}]
        case 5:
            rule[f"{word}Entities"] = [rng.choice(["all", "world", "cluster"])]
        case _:
            pass
    match rng.randrange(6):
        case 0:
            rule["toPorts"] = [{"ports": []}]
        case 1 | 2:
            port = {"port": rng.choice(["8080", "http", "53"]), "protocol": rng.choice(["TCP", "UDP", "ANY"])}
            rule["toPorts"] = [{"ports": [port]}]
        case 3:
            rule["toPorts"] = [{"ports": [{"port": "8000", "endPort": 8191, "protocol": "TCP"}]}]
        case _:
            pass
    return rule


def kubernetes_spec(rng: random.Random) -> Spec:
    """Valid."""
    spec: Spec = {
        "podSelector": _selector(rng),
        "policyTypes": rng.choice([["Ingress"], ["Egress"], ["Ingress", "Egress"]]),
    }
    for section, word in rng.sample([("ingress", "from"), ("egress", "to")], rng.randint(0, 2)):
        spec[section] = [_kubernetes_rule(rng, word) for _ in range(rng.randint(0, 2))]
    return spec


def _kubernetes_rule(rng: random.Random, word: str) -> Spec:
    rule: Spec = {}
    team = {"matchLabels": {"team": rng.choice("ab")}}
    peers = (
        {"podSelector": _selector(rng)},
        {"namespaceSelector": rng.choice([{}, team])},
        {"namespaceSelector": rng.choice([{}, team]), "podSelector": _selector(rng)},
        {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["198.51.100.0/24"]}},
    )
    if rng.random() < 0.8:
        rule[word] = rng.sample(peers, rng.randint(0, 2))
    if rng.random() < 0.5:
        rule["ports"] = [
            rng.choice([{"port": 8080}, {"port": "http"}, {"protocol": "UDP"}, {"port": 8000, "endPort": 9000}])
        ]
    return rule


def tiered_spec(rng: random.Random) -> Spec:
    """Valid; few priorities, so that policies tie."""
    spec: Spec = {
        "tier": rng.choice(["Admin", "Admin", "Baseline"]),
        "priority": rng.choice([0, 1, 1]),
        "subject": _tiered_pods(rng),
    }
    for section, word in rng.sample([("ingress", "from"), ("egress", "to")], rng.randint(1, 2)):
        spec[section] = [_tiered_rule(rng, word) for _ in range(rng.randint(1, 2))]
    return spec


def _tiered_rule(rng: random.Random, word: str) -> Spec:
    rule: Spec = {"action": rng.choice(["Accept", "Deny", "Pass"]), word: [_tiered_pods(rng)]}
    if rng.random() < 0.4:
        rule["protocols"] = [{"tcp": {"destinationPort": {"number": 8080}}}]
    return rule


def _tiered_pods(rng: random.Random) -> Spec:
    return rng.choice([{"namespaces": {}}, {"pods": {"podSelector": _selector(rng)}}])


def _selector(rng: random.Random) -> Spec:
    other = {"key": "tier", "operator": rng.choice(["Exists", "DoesNotExist"])}
    return rng.choice(
        [
            {},
            {"matchLabels": {"app": rng.choice(SERVICES)}},
            {"matchLabels": {"tier": "a"}},
            {"matchExpressions": [other]},
        ]
    )


def _far_selector(rng: random.Random) -> Spec:
    """Pods of this namespace, of another, or of a cluster by its name."""
    labels = {
        0: {"k8s:io.kubernetes.pod.namespace": rng.choice(NAMESPACES)},
        1: {"k8s:io.cilium.k8s.policy.cluster": rng.choice(["north", "south"])},
        2: {"k8s:io.cilium.k8s.namespace.labels.team": rng.choice("ab")},
    }.get(rng.randrange(6), {})
    selector = _selector(rng)
    if not labels:
        return selector
    return {**selector, "matchLabels": {**selector.get("matchLabels", {}), **labels}}


def _named(namespace: str, name: str, spec: Spec) -> Document:
    return {"metadata": {"name": name, **({"namespace": namespace} if namespace else {})}, "spec": spec}
