# SPDX-License-Identifier: Apache-2.0
"""ClusterNetworkPolicies read closely: what is not known is refused or fails closed, and so does what is not resolved."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from meshmodel.identity import NumericIdentity
from meshmodel.labels import pod_labels
from meshpolicy import Direction, Engine, Policy, PolicyContext, PolicyError, closed, parse_policy
from meshpolicy.documents import load_documents
from meshpolicy.errors import NotAPolicyError
from meshpolicy.lint import lint
from meshpolicy.peer import FqdnSelector

NORTH = PolicyContext("north")
WEB, DB, FAR = NumericIdentity(300), NumericIdentity(301), NumericIdentity(302)
WHOLE: dict[str, Any] = {
    "apiVersion": "policy.networking.k8s.io/v1alpha2",
    "kind": "ClusterNetworkPolicy",
    "metadata": {"name": "p"},
    "spec": {
        "tier": "Admin",
        "priority": 7,
        "subject": {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}}}},
        "ingress": [
            {
                "name": "metrics",
                "action": "Accept",
                "from": [{"namespaces": {"matchExpressions": [{"key": "team", "operator": "Exists"}]}}],
                "protocols": [{"tcp": {"destinationPort": {"number": 80}}}, {"destinationNamedPort": "http"}],
            }
        ],
        "egress": [
            {
                "action": "Accept",
                "to": [{"networks": ["10.0.0.0/8"]}, {"nodes": {}}, {"domainNames": ["*.example.org"]}],
                "protocols": [{"udp": {"destinationPort": {"range": {"start": 1, "end": 9}}}}],
            }
        ],
    },
}


TCP80 = {"tcp": {"destinationPort": {"number": 80}}}


def policy(**spec: Any) -> Policy:
    document = {**WHOLE, "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, **spec}}
    return parse_policy(document, NORTH)


def maps(value: Any) -> Iterator[dict[str, Any]]:
    """Every map inside a value whose keys are fields."""
    if isinstance(value, dict):
        yield value
        for key, inner in value.items():
            if key != "matchLabels":
                yield from maps(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from maps(inner)


def test_the_whole_document_is_valid() -> None:
    found = parse_policy(WHOLE, NORTH)
    assert [str(rule.origin) for rule in found.rules] == [
        "kcnp/p ingress[0] metrics (Admin, priority 7)",
        "kcnp/p egress[0] (Admin, priority 7)",
    ]
    assert [text.partition(":")[0] for text in found.problems] == [
        "spec.egress[0].to[2].domainNames",
    ]


@pytest.mark.parametrize("index", range(len([*maps(WHOLE["spec"])])))
def test_an_unknown_field_is_refused_or_closed_at_every_level(index: int) -> None:
    document = copy.deepcopy(WHOLE)
    [*maps(document["spec"])][index]["bogus"] = {}
    found = read(document)
    if isinstance(found, PolicyError):
        assert "unknown field" in str(found)
        return
    (told,) = (text for text in found.problems if "bogus: unknown field" in text)
    assert told.endswith("; the rule accepts nothing by it")
    (less,) = (new for new, old in zip(found.rules, parse_policy(WHOLE, NORTH).rules, strict=True) if new != old)
    assert less.peers == () or {spec.name for spec in less.ports or ()} <= {"http"}


def read(document: dict[str, Any]) -> Policy | PolicyError:
    (found,) = load_documents([document], NORTH)
    assert isinstance(found, Policy | PolicyError)
    return found


EVERYBODY = {"namespaces": {}}
NEWER = {
    "a peer": {"from": [{"serviceAccounts": {"names": ["a"]}}]},
    "no peer that is known": {"from": [{}]},
    "a protocol": {"from": [EVERYBODY], "protocols": [{"icmp": {"type": 8}}]},
    "a part of a protocol": {
        "from": [EVERYBODY],
        "protocols": [{"tcp": {"flags": ["SYN"], "destinationPort": {"number": 80}}}],
    },
    "a field of the rule": {"from": [EVERYBODY], "schedule": "weekends"},
}
"""What a newer version of the kind may bring."""


@pytest.mark.parametrize("what", NEWER)
@pytest.mark.parametrize("action", ["Accept", "Deny", "Pass"])
def test_what_a_newer_version_brings_fails_closed_and_is_told(what: str, action: str) -> None:
    """Kubernetes' text: accept no traffic by it; a rule that denies or passes denies everything that may be meant."""
    isolate = {"kind": "NetworkPolicy", "metadata": {"name": "n", "namespace": "shop"}, "spec": {"podSelector": {}}}
    found = policy(ingress=[{"action": action, **NEWER[what]}])
    engine = engine_with(found, *([parse_policy(isolate, NORTH)] if action == "Accept" else []))
    verdicts = {port: engine.endpoint_policy(WEB).verdict(Direction.INGRESS, int(DB), 6, port) for port in (80, 81)}
    assert not any(verdict.allowed for verdict in verdicts.values())
    (told,) = found.problems
    assert told.startswith("spec.ingress[0]")
    assert [finding.severity.value for finding in lint([{**WHOLE, "spec": {
        "tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "ingress": [{"action": action, **NEWER[what]}],
    }}], NORTH) if finding.code == "not-enforced"] == ["warning"]  # fmt: skip


def test_what_is_known_beside_it_stays() -> None:
    rules = [
        {"action": "Accept", "from": [{"serviceAccounts": {}}, EVERYBODY], "protocols": [{"icmp": {}}, TCP80]},
        {"action": "Deny", "from": [EVERYBODY]},
    ]
    engine = engine_with(policy(ingress=rules))
    allowed = [engine.endpoint_policy(WEB).verdict(Direction.INGRESS, int(DB), 6, port).allowed for port in (80, 81)]
    assert allowed == [True, False]


def test_only_a_peer_that_is_not_known_makes_a_denial_one_of_everybody() -> None:
    denied = {}
    for what in ("a peer", "a protocol"):
        engine = engine_with(policy(ingress=[{"action": "Deny", **NEWER[what]}]))
        denied[what] = not engine.endpoint_policy(WEB).verdict(Direction.INGRESS, 2, 6, 80).allowed
    assert denied == {"a peer": True, "a protocol": False}, "the world is no namespace"


@pytest.mark.parametrize("version", ["policy.networking.k8s.io/v1alpha1", "crd.antrea.io/v1beta1"])
def test_the_kind_of_another_group_or_version_is_not_read_as_this_one(version: str) -> None:
    with pytest.raises(PolicyError, match="no version of ClusterNetworkPolicy"):
        parse_policy({**WHOLE, "apiVersion": version}, NORTH)


@pytest.mark.parametrize(
    ("kind", "tier"), [("AdminNetworkPolicy", "Admin"), ("BaselineAdminNetworkPolicy", "Baseline")]
)
def test_the_older_kinds_are_refused_and_not_skipped(kind: str, tier: str) -> None:
    with pytest.raises(PolicyError, match=f"would have no effect.*tier: {tier}") as refused:
        parse_policy({"kind": kind, "metadata": {"name": "p"}, "spec": {}}, NORTH)
    assert not isinstance(refused.value, NotAPolicyError)


@pytest.mark.parametrize("action", ["Deny", "Pass"])
def test_names_can_only_be_accepted(action: str) -> None:
    with pytest.raises(PolicyError, match="domainNames in a rule that says"):
        policy(egress=[{"action": action, "to": [{"domainNames": ["example.org"]}]}])


def test_a_leading_star_means_one_or_more_labels() -> None:
    found = policy(egress=[{"action": "Accept", "to": [{"domainNames": ["*.example.org", "example.org"]}]}])
    assert found.rules[0].peers == (FqdnSelector("", "**.example.org"), FqdnSelector("example.org", ""))


def engine_with(*policies: Policy, context: PolicyContext = NORTH) -> Engine:
    engine = Engine(context)
    for number, app, cluster in ((WEB, "web", "north"), (DB, "db", "north"), (FAR, "db", "south")):
        labels = pod_labels({"app": app}, "shop", {"team": "red"}, "default", cluster)
        engine.set_identity(number, labels)
    for one in policies:
        engine.set_policy(one)
    return engine


@pytest.mark.parametrize(("action", "is_open"), [("Accept", True), ("Pass", False), ("Deny", False)])
def test_nodes_whose_labels_are_not_known_are_never_opened_and_never_passed_on(action: str, is_open: bool) -> None:
    """A rule that accepts means nobody by them, so that the default holds; others deny them."""
    engine = engine_with(policy(egress=[{"action": action, "to": [{"nodes": {"matchLabels": {"role": "edge"}}}]}]))
    verdict = engine.endpoint_policy(WEB).verdict(Direction.EGRESS, 6, 6, 10250)
    assert verdict.allowed is is_open
    assert engine.endpoint_policy(WEB).verdict(Direction.EGRESS, int(DB), 6, 80).allowed


@pytest.mark.parametrize(
    ("tier", "action", "peer", "reaches"),
    [
        ("Admin", "Deny", {"namespaces": {}}, True),
        ("Baseline", "Accept", {"namespaces": {}}, False),
        ("Admin", "Deny", {"pods": {"podSelector": {}}}, False),
    ],
)
def test_which_clusters_a_peer_means(tier: str, action: str, peer: dict[str, Any], reaches: bool) -> None:
    """Namespaces in a rule that denies are those of every cluster; all else follows the switch."""
    (rule,) = policy(tier=tier, ingress=[{"action": action, "from": [peer]}]).rules
    selected = engine_with().selected_by(rule.peers[0]) if rule.peers else frozenset()
    assert {WEB, DB} <= selected
    assert (FAR in selected) is reaches


@pytest.mark.parametrize("action", ["Deny", "Pass"])
def test_a_closed_policy_denies_what_it_may_have_denied(action: str) -> None:
    """What a rule passed on may have been denied further down in its tier."""
    found = closed(policy(ingress=[{"action": action, "from": [{"namespaces": {}}]}]))
    engine = engine_with(found)
    assert not engine.endpoint_policy(WEB).verdict(Direction.INGRESS, int(DB), 6, 80).allowed
    assert engine.endpoint_policy(WEB).verdict(Direction.EGRESS, int(DB), 6, 80).allowed


def test_the_baseline_tier_is_not_asked_where_a_policy_isolates() -> None:
    """A NetworkPolicy decides whatever reaches it for the pods it selects; ours is never wider than that."""
    accept = policy(tier="Baseline", ingress=[{"action": "Accept", "from": [{"namespaces": {}}]}])
    isolate = parse_policy(
        {"kind": "NetworkPolicy", "metadata": {"name": "n", "namespace": "shop"}, "spec": {"podSelector": {}}}, NORTH
    )
    engine = engine_with(accept)
    assert engine.endpoint_policy(WEB).verdict(Direction.INGRESS, int(DB), 6, 80).allowed
    engine.set_policy(isolate)
    assert not engine.endpoint_policy(WEB).verdict(Direction.INGRESS, int(DB), 6, 80).allowed
    engine.remove_policy(isolate.key)
    assert engine.endpoint_policy(WEB).verdict(Direction.INGRESS, int(DB), 6, 80).allowed


def test_ranges_that_overlap_across_tiers_are_cut_at_every_border() -> None:
    """Admin passes 80-90, denies 1-100; the middle tier denies 85; Baseline denies 88-200: each port by hand."""

    def ports(first: int, last: int) -> list[dict[str, Any]]:
        return [{"tcp": {"destinationPort": {"range": {"start": first, "end": last}}}}]

    everyone = [{"namespaces": {}}]
    engine = engine_with(
        policy(
            ingress=[
                {"action": "Pass", "from": everyone, "protocols": ports(80, 90)},
                {"action": "Deny", "from": everyone, "protocols": ports(1, 100)},
            ]
        ),
        parse_policy(
            {
                "kind": "CiliumNetworkPolicy",
                "metadata": {"name": "c", "namespace": "shop"},
                "spec": {
                    "endpointSelector": {},
                    "enableDefaultDeny": {"ingress": False},
                    "ingressDeny": [{"toPorts": [{"ports": [{"port": "85", "protocol": "TCP"}]}]}],
                },
            },
            NORTH,
        ),
        parse_policy(
            {
                **WHOLE,
                "metadata": {"name": "b"},
                "spec": {
                    "tier": "Baseline",
                    "priority": 0,
                    "subject": {"namespaces": {}},
                    "ingress": [{"action": "Deny", "from": everyone, "protocols": ports(88, 200)}],
                },
            },
            NORTH,
        ),
    )
    found = engine.endpoint_policy(WEB)
    allowed = {port for port in range(210) if found.verdict(Direction.INGRESS, int(DB), 6, port).allowed}
    assert allowed == {0, *range(80, 85), 86, 87, *range(201, 210)}


def lines(document: dict[str, Any], context: PolicyContext) -> list[str]:
    return [finding.code for finding in lint([document], context)]


@pytest.mark.parametrize(
    ("action", "peer", "local", "anywhere"),
    [
        ("Accept", {"pods": {"podSelector": {}}}, ["local-cluster-only"], ["any-cluster"]),
        ("Accept", {"namespaces": {}}, ["local-cluster-only"], ["any-cluster"]),
        ("Deny", {"pods": {"podSelector": {}}}, ["local-cluster-only"], []),
        ("Deny", {"namespaces": {}}, [], []),
    ],
)
def test_lint_says_which_clusters_are_meant_and_never_to_deny_less(
    action: str, peer: dict[str, Any], local: list[str], anywhere: list[str]
) -> None:
    spec = {
        "tier": "Admin",
        "priority": 1,
        "subject": {"namespaces": {}},
        "ingress": [{"action": action, "from": [peer]}],
    }
    assert lines({**WHOLE, "spec": spec}, NORTH) == local
    assert lines({**WHOLE, "spec": spec}, PolicyContext("north", default_local_cluster=False)) == anywhere


def test_lint_asks_for_dns_over_tcp_only_where_the_rest_is_closed() -> None:
    rule = {
        "action": "Accept",
        "to": [{"networks": ["192.0.2.53/32"]}],
        "protocols": [{"udp": {"destinationPort": {"number": 53}}}],
    }
    spec = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "egress": [rule]}
    assert lines({**WHOLE, "spec": spec}, NORTH) == []
