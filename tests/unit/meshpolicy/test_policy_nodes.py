# SPDX-License-Identifier: Apache-2.0
"""Rules that name nodes by label: which nodes a selector means, in cases, explanations and remarks."""

from __future__ import annotations

from typing import Any

import pytest

from meshmodel.identity import NumericIdentity
from meshmodel.labels import CLUSTER_LABEL, Label, parse_label
from meshpolicy import Direction, Engine, PolicyContext, PolicyError, PolicyRef, parse_policy
from meshpolicy.evaluate import evaluate_case
from meshpolicy.explain import Half, explain_side
from meshpolicy.lint import lint
from meshpolicy.node_peer import node_labels
from meshpolicy.scope import inspect_default_local_cluster

POD = ["k8s:io.kubernetes.pod.namespace=default", "k8s:app=a"]
IDS = {
    "pod": POD,
    "edge": ["reserved:remote-node", "node:role=edge"],
    "core": ["reserved:remote-node", "node:role=core"],
    "bare": ["reserved:remote-node", "node:zone=z"],
    "south": ["reserved:remote-node", "node:role=edge", f"node:{CLUSTER_LABEL}=south"],
    "host": ["reserved:host", "node:role=edge"],
}
EDGE: dict[str, Any] = {"matchLabels": {"role": "edge"}}


def not_in(*values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": "role", "operator": "NotIn", "values": list(values)}]}


def document(**sections: Any) -> dict[str, Any]:
    spec = {"endpointSelector": {}, **sections}
    return {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "p"}, "spec": spec}


def reached(section: str, selector: dict[str, Any], scope: str = "north") -> set[str]:
    """The names that may talk with the pod in the direction of the section."""
    word, side = ("to", 0) if section.startswith("egress") else ("from", 1)
    sections: dict[str, Any] = {section: [{f"{word}Nodes": [selector]}]}
    if section.endswith("Deny"):
        sections[section.removesuffix("Deny")] = [{f"{word}Entities": ["all"]}]
    others = [*(name for name in IDS if name != "pod"), "remote-node", "kube-apiserver"]
    ends = [(name, "pod") if side else ("pod", name) for name in others]
    case = {"cluster": "north", "scope": scope, "ids": IDS, "policies": [document(**sections)]}
    answer = evaluate_case({**case, "flows": [[*pair, "TCP", 80] for pair in ends]})
    assert answer["errors"] == []
    verdicts = answer["verdicts"]
    assert isinstance(verdicts, list)
    return {name for name, verdict in zip(others, verdicts, strict=True) if verdict[side] == "allowed"}


@pytest.mark.parametrize(
    ("section", "selector", "scope", "expected"),
    [
        ("ingress", EDGE, "north", {"edge", "host"}),
        ("ingress", EDGE, "", {"edge", "south", "host"}),
        ("ingress", {"matchLabels": {"role": "edge", CLUSTER_LABEL: "south"}}, "north", {"south", "host"}),
        ("ingress", {"matchLabels": {f"k8s:{CLUSTER_LABEL}": "south"}}, "north", {"south", "host"}),
        ("ingress", not_in("edge"), "", {"core", "bare", "host"}),
        ("ingress", {}, "north", {"edge", "core", "bare", "host"}),
        ("ingress", {}, "", {"edge", "core", "bare", "south", "remote-node", "kube-apiserver", "host"}),
        ("egress", EDGE, "north", {"edge", "host"}),
        ("egress", not_in("edge"), "", {"core", "bare"}),
        ("ingressDeny", EDGE, "north", {"core", "bare", "south", "host"}),
        ("ingressDeny", not_in("edge"), "", {"edge", "south", "host"}),
        ("egressDeny", EDGE, "", {"core", "bare"}),
        ("egressDeny", {}, "", set()),
    ],
)
def test_which_nodes_a_selector_means(section: str, selector: dict[str, Any], scope: str, expected: set[str]) -> None:
    """The own node is one of them on egress; on ingress it always reaches its pods. Unlabelled nodes only deny."""
    assert reached(section, selector, scope) == expected


def test_labels_of_pods_and_of_nodes_do_not_meet() -> None:
    """Neither does a rule for nodes mean pods, nor `any` in a rule for pods labels of nodes."""
    engine = Engine(PolicyContext("north", default_local_cluster=False))
    engine.set_identity(NumericIdentity(300), tuple(parse_label(text) for text in (*POD, "k8s:role=edge")))
    engine.set_identity(NumericIdentity(0x2000001), node_labels({"app": "a"}, "north", ["app"], is_own=False))
    engine.set_policy(parse_policy(document(ingress=[{"fromNodes": [EDGE]}]), engine.context))
    init: dict[str, Any] = {"endpointSelector": {"matchLabels": {"reserved:init": ""}}}
    init["ingress"] = [{"fromEndpoints": [{"matchLabels": {"app": "a"}}]}]
    clusterwide = {"apiVersion": "cilium.io/v2", "kind": "CiliumClusterwideNetworkPolicy", "metadata": {"name": "q"}}
    engine.set_policy(parse_policy({**clusterwide, "spec": init}, engine.context))
    peers = [peer for policy in engine.policies() for rule in policy.rules for peer in rule.peers or ()]
    assert [sorted(engine.selected_by(peer)) for peer in peers] == [[300], []]


@pytest.mark.parametrize("key", ["k8s:role", "reserved:host", "any:role", "cidr:role"])
def test_a_key_of_another_source_is_refused(key: str) -> None:
    found = document(ingress=[{"fromNodes": [{"matchLabels": {key: ""}}]}])
    with pytest.raises(PolicyError, match="is not a label of nodes"):
        parse_policy(found, PolicyContext("north"))


def test_the_keys_that_policies_ask_for_come_and_go_with_them() -> None:
    engine = Engine(PolicyContext("north"))
    assert engine.node_keys() == frozenset()
    engine.set_policy(parse_policy(document(ingress=[{"fromNodes": [EDGE]}]), engine.context))
    assert engine.node_keys() == {"role", CLUSTER_LABEL}
    engine.set_policy(parse_policy(document(egress=[{"toNodes": [{"matchLabels": {"zone": "a"}}]}]), engine.context))
    assert engine.node_keys() == {"zone", CLUSTER_LABEL}
    engine.remove_policy(PolicyRef("CiliumNetworkPolicy", "default", "p"))
    assert engine.node_keys() == frozenset()


def test_a_nodes_label_cannot_name_another_cluster() -> None:
    labels = node_labels({CLUSTER_LABEL: "north", "role": "edge"}, "south", [CLUSTER_LABEL, "zone"], is_own=False)
    assert Label("node", CLUSTER_LABEL, "south") in labels
    assert {label.source for label in labels if label.key == "zone"} == {"node-key"}
    assert not any(label.key == "role" for label in labels)


def test_an_identity_of_labelled_nodes_ends_like_a_reserved_one() -> None:
    """A reserved identity that is forgotten is what it was from the start."""
    engine = Engine(PolicyContext("north"))
    before = engine.labels_of(NumericIdentity(1))
    engine.set_identity(NumericIdentity(1), node_labels({"role": "edge"}, "north", ["role"], is_own=True))
    engine.remove_identity(NumericIdentity(1))
    assert engine.labels_of(NumericIdentity(1)) == before


@pytest.mark.parametrize(
    ("peer", "reason"),
    [
        (6, "which labels the node has is not known here"),
        (0x2000001, f"the peer is not nodes {{{CLUSTER_LABEL}=north, role=edge}}"),
    ],
)
def test_an_explanation_speaks_of_nodes_as_the_author_does(peer: int, reason: str) -> None:
    engine = Engine(PolicyContext("north"))
    engine.set_identity(NumericIdentity(300), tuple(parse_label(text) for text in POD))
    engine.set_policy(parse_policy(document(ingress=[{"fromNodes": [EDGE]}]), engine.context))
    core = node_labels({"role": "core"}, "north", engine.node_keys(), is_own=False)
    engine.set_identity(NumericIdentity(0x2000001), core)
    half = Half(engine, NumericIdentity(300), NumericIdentity(peer))
    assert [note.reason for note in explain_side(half, Direction.INGRESS, 6, 80).rules] == [reason]


def test_the_switch_takes_away_nodes_of_other_clusters() -> None:
    nodes = {
        NumericIdentity(0x2000001 + n): node_labels({"role": "edge"}, cluster, ["role", CLUSTER_LABEL], is_own=False)
        for n, cluster in enumerate(("north", "south"))
    }
    rules = document(ingress=[{"fromNodes": [EDGE]}], egressDeny=[{"toNodes": [EDGE]}])
    found = inspect_default_local_cluster([rules], PolicyContext("north"), nodes)
    assert [change.selectors[0] for change in found] == ["nodes {role=edge}"] * 2
    assert [list(change.lost) for change in found] == [[0x2000002]] * 2
    assert [list(change.kept) for change in found] == [[0x2000001], [1, 6, 7, 0x2000001]], "unknown nodes stay denied"


@pytest.mark.parametrize("action", ["Deny", "Pass"])
@pytest.mark.parametrize("is_on", [False, True])
def test_tiered_rules_about_every_node_can_be_linted_and_inspected(action: str, *, is_on: bool) -> None:
    """With the switch on such a rule also is about nodes whose cluster is not known: a part more than without."""
    everybody = {"namespaces": {}}
    spec = {"tier": "Admin", "priority": 1, "subject": everybody}
    egress = [{"action": action, "to": [{"nodes": {}}]}, {"action": "Accept", "to": [everybody]}]
    of_tier: dict[str, object] = {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "nodes"},
        "spec": {**spec, "egress": egress},
    }
    context = PolicyContext("north", is_on)
    assert {finding.code for finding in lint([of_tier], context)} == {"local-cluster-only" if is_on else "any-cluster"}
    far = {NumericIdentity(0x2000001): node_labels({}, "south", [CLUSTER_LABEL], is_own=False)}
    first, second = inspect_default_local_cluster([of_tier], context, far)
    unknown = () if action == "Deny" else (1, 6, 7)
    assert (first.lost, second.lost) == ((*unknown, *far), ()), "a denial holds for nodes of an unknown cluster, too"
    assert second.origin.section.startswith("egress[1]")


def test_lint_says_nothing_about_nodes_that_it_cannot_know() -> None:
    labels = {NumericIdentity(300): tuple(parse_label(text) for text in POD)}
    found = lint([document(ingress=[{"fromNodes": [EDGE]}])], PolicyContext("north"), labels)
    assert [str(finding) for finding in found] == []
