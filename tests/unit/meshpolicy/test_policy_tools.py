# SPDX-License-Identifier: Apache-2.0
"""lint, the inspection of the scope switch, widening by a drained peer, and explain."""

from __future__ import annotations

from typing import Any

import pytest
from policy_world import CLIENT, REMOTE, SERVER, STRANGER, WHO, build, policy, port

from meshmodel.identity import NumericIdentity, Reserved
from meshpolicy import PolicyContext
from meshpolicy.explain import Half, explain, render
from meshpolicy.lint import Severity, lint
from meshpolicy.proxy_ports import ProxyPorts
from meshpolicy.scope import find_widening, inspect_default_local_cluster

LOCAL, ANY = PolicyContext("north", True), PolicyContext("north", False)


def cnp(name: str = "p", **spec: Any) -> dict[str, Any]:
    subject = {"endpointSelector": {"matchLabels": {"app": "server"}}}
    return {"kind": "CiliumNetworkPolicy", "metadata": {"name": name}, "spec": {**subject, **spec}}


def netpol(**spec: Any) -> dict[str, Any]:
    return {"kind": "NetworkPolicy", "metadata": {"name": "k"}, "spec": {"podSelector": {}, **spec}}


FROM_CLIENT = {"fromEndpoints": [{"matchLabels": {"app": "client"}}]}
HOSTS = [f"10.0.{n >> 8}.{n & 255}" for n in range(32_769)]
EVERY_CLUSTER = {"matchExpressions": [{"key": "io.cilium.k8s.policy.cluster", "operator": "Exists"}]}


def codes(documents: list[dict[str, Any]], context: PolicyContext, **fields: Any) -> list[str]:
    return [finding.code for finding in lint(documents, context, **fields)]


def test_lint_says_what_unscoped_peers_mean_under_either_switch() -> None:
    assert codes([cnp(ingress=[FROM_CLIENT])], LOCAL) == ["local-cluster-only"]
    assert codes([cnp(ingress=[FROM_CLIENT])], ANY) == ["any-cluster"]
    for context in (LOCAL, ANY):
        assert codes([cnp(ingress=[{"fromEndpoints": [EVERY_CLUSTER]}])], context) == []
        assert codes([cnp(ingress=[{"fromEntities": ["cluster", "world"]}])], context) == []
        named = {"fromEndpoints": [{"matchLabels": {"k8s:io.cilium.k8s.policy.cluster": "north"}}]}
        assert codes([cnp(ingress=[named])], context) == []


def test_lint_finds_rules_that_name_or_select_nobody() -> None:
    assert codes([cnp(ingress=[{"fromEndpoints": []}])], LOCAL) == ["no-effect"]
    assert codes([cnp(ingress=[{"fromEntities": ["all"], "toPorts": [{}]}])], LOCAL) == ["names-no-port"]
    assert codes([cnp(ingress=[{}])], LOCAL) == []


def test_a_rule_whose_ports_have_server_names_is_not_said_to_name_no_port() -> None:
    named = {"ports": [{"port": "443", "protocol": "TCP"}], "serverNames": ["*.example.org"]}
    context = PolicyContext("north", True, proxy_ports=ProxyPorts())
    assert codes([cnp(egress=[{"toEntities": ["world"], "toPorts": [named]}])], context) == []
    without_ports = {"serverNames": ["*.example.org"]}
    assert codes([cnp(egress=[{"toEntities": ["world"], "toPorts": [without_ports]}])], context) == ["names-no-port"]
    nobody = {"fromEndpoints": [{"matchLabels": {"app": "nobody", "io.cilium.k8s.policy.cluster": "north"}}]}
    assert codes([cnp(ingress=[nobody])], LOCAL, identities=WHO) == ["selects-no-peer"]
    lost = cnp(ingress=[{}])
    lost["spec"]["endpointSelector"] = {"matchLabels": {"app": "nobody"}}
    assert codes([lost], LOCAL, identities=WHO) == ["selects-no-pod"]


@pytest.mark.parametrize(
    "port_rule",
    [
        {"ports": [{"port": "443"}], "serverNames": ["a.example"]},
        {"ports": [{"port": "443"}], "listener": {"name": "x"}},
        {"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{"method": "GET"}]}},
    ],
    ids=["server names", "listener", "HTTP"],
)
def test_lint_never_advises_what_widens_access(port_rule: dict[str, Any]) -> None:
    findings = lint([cnp(egress=[{"toEntities": ["world"], "toPorts": [port_rule]}])], LOCAL)
    assert [finding.code for finding in findings] == ["not-enforced"]
    assert "remove" not in str(findings[0])


def test_a_rule_with_authentication_is_no_rule_without_ports() -> None:
    rule = {"fromEntities": ["all"], "authentication": {"mode": "required"}}
    assert codes([cnp(ingress=[rule])], LOCAL) == ["not-enforced"]


def test_lint_finds_policies_that_would_be_kept_closed_for_their_ranges() -> None:
    """One by one, and where two of one namespace name too many together."""
    few, many = (cnp(name, egress=[{"toCIDR": ranges}]) for name, ranges in (("few", HOSTS[:2]), ("many", HOSTS[2:])))
    assert not [f for document in (few, many) for f in lint([document], LOCAL) if f.code == "too-many-ranges"]
    (found,) = (f for f in lint([few, many], LOCAL) if f.code == "too-many-ranges")
    assert (found.severity, found.where) == (Severity.ERROR, "cnp/default/many")
    assert "the policies of a namespace may name 32768 together" in found.message


def test_what_is_no_policy_is_skipped_with_one_line() -> None:
    found = lint([{"kind": "Deployment", "metadata": {"namespace": "shop", "name": "web"}}], LOCAL)
    assert [str(finding) for finding in found] == ["note: Deployment shop/web: is no policy and is skipped"]


def test_lint_finds_dns_without_tcp() -> None:
    dns = {"toEntities": ["all"], "toPorts": port("53", "UDP")}
    assert codes([cnp(egress=[dns])], LOCAL) == ["dns-without-tcp"]
    assert codes([cnp(egress=[dns, {"toEntities": ["all"], "toPorts": port("53")}])], LOCAL) == []
    assert codes([cnp(egress=[{"toEntities": ["all"], "toPorts": port("53", "ANY")}])], LOCAL) == []


@pytest.mark.parametrize(
    ("peer", "asked", "is_seen"),
    [
        ({"matchName": "google.com"}, None, False),
        ({"matchName": "google.com"}, {"matchPattern": "*"}, True),
        ({"matchName": "google.com"}, {"matchName": "google.com"}, True),
        ({"matchName": "google.com"}, {"matchPattern": "*.google.com"}, False),
        ({"matchPattern": "*.google.com"}, {"matchPattern": "*.google.com"}, True),
        ({"matchPattern": "*.google.com"}, {"matchPattern": "**.com"}, True),
        ({"matchPattern": "**.google.com"}, {"matchPattern": "*.google.com"}, False),
        ({"matchPattern": "*"}, {"matchPattern": "*.com"}, False),
    ],
)
@pytest.mark.parametrize("has_proxy", [False, True])
def test_lint_finds_names_that_nobody_sees(peer: Any, asked: Any, *, is_seen: bool, has_proxy: bool) -> None:
    dns = port("53", "ANY") if asked is None else port("53", "ANY", rules={"dns": [asked]})
    egress = [{"toEntities": ["cluster"], "toPorts": dns}, {"toFQDNs": [peer]}]
    context = PolicyContext("north", True, proxy_ports=ProxyPorts() if has_proxy else None)
    is_enforced = has_proxy or asked is None or asked == {"matchPattern": "*"}
    assert ("names-not-seen" not in codes([cnp(egress=egress)], context)) is (is_seen and is_enforced)
    # what another document says counts too
    both = [cnp(egress=egress[:1]), {**cnp(egress=egress[1:]), "metadata": {"name": "q"}}]
    assert ("names-not-seen" not in codes(both, context)) is (is_seen and is_enforced)


def test_lint_finds_empty_rules_of_opposite_meaning_in_one_namespace() -> None:
    assert codes([cnp(ingress=[{}]), netpol(ingress=[{}])], LOCAL) == ["opposite-empties"]
    other = netpol(ingress=[{}])
    other["metadata"]["namespace"] = "elsewhere"
    assert codes([cnp(ingress=[{}]), other], LOCAL) == []


def test_lint_reports_invalid_and_unenforced_documents() -> None:
    http = {"toPorts": port("80", rules={"http": [{}]})}
    findings = lint([cnp(), cnp(ingress=[http]), cnp(ingress=[{"fromEndpoint": [{}]}])], LOCAL)
    assert [(finding.severity, finding.code) for finding in findings] == [
        (Severity.ERROR, "invalid"),
        (Severity.WARNING, "not-enforced"),
        (Severity.ERROR, "invalid"),
    ]
    assert (
        str(findings[2])
        == "error: CiliumNetworkPolicy p: spec.ingress[0].fromEndpoint: unknown field; write fromEndpoints"
    )
    assert str(findings[0]).startswith("error: CiliumNetworkPolicy p: spec: there is no rule")


def test_the_switch_inspection_names_the_peers_that_change() -> None:
    documents = [
        cnp("unscoped", ingress=[FROM_CLIENT]),
        cnp("scoped", ingress=[{"fromEndpoints": [EVERY_CLUSTER]}]),
        cnp("nobody", ingress=[{"fromEndpoints": [{"matchLabels": {"app": "nobody"}}]}]),
    ]
    found = inspect_default_local_cluster(documents, LOCAL, WHO)
    assert [(str(change.origin), change.lost, change.kept) for change in found] == [
        ("cnp/default/unscoped ingress[0]", (REMOTE,), (CLIENT,)),
        ("cnp/default/nobody ingress[0]", (), ()),
    ]
    assert found == inspect_default_local_cluster(documents, ANY, WHO)


def test_a_drained_peer_would_widen_these_rules() -> None:
    engine = build()
    policies = [
        policy(engine, "range", egress=[{"toCIDR": ["10.0.0.0/8"]}, {"toCIDR": ["192.0.2.0/24"]}]),
        policy(engine, "hole", egress=[{"toCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.2.0.0/16"]}]}]),
        policy(engine, "world", ingress=[{"fromEntities": ["world"]}]),
        policy(engine, "denied", egressDeny=[{"toCIDR": ["10.0.0.0/8"]}]),
        policy(engine, "pods", ingress=[FROM_CLIENT]),
    ]
    found = find_widening(policies, ["10.2.0.0/16", "nonsense"])
    assert [str(widening.origin) for widening in found] == [
        "cnp/default/range egress[0]",
        "cnp/default/world ingress[0]",
    ]


def test_explain_shows_both_sides_and_the_deciding_rule_of_each() -> None:
    engine = build()
    engine.set_policy(policy(engine, "out", app="client", egress=[{"toEndpoints": [{}], "toPorts": port("80")}]))
    engine.set_policy(policy(engine, "in", ingress=[{"fromEndpoints": [{"matchLabels": {"app": "other"}}]}]))
    source, destination = Half(engine, CLIENT, SERVER), Half(engine, SERVER, CLIENT)
    found = explain(source, destination, 6, 80)
    assert (found.egress.allowed, found.ingress.allowed, found.allowed) == (True, False, False)
    assert str(found.egress.deciding) == "cnp/default/out egress[0]"
    assert found.ingress.deciding is None
    assert found.ingress.reason == "denied by default: 1 rules select the endpoint for ingress and none allows this"
    nobody = "the peer is not {app=other, k8s:io.kubernetes.pod.namespace=default}"
    assert render(found).splitlines() == [
        "connection: denied",
        "egress: allowed: allowed by cnp/default/out egress[0] (L3-L4)",
        "  cnp/default/out egress[0]: allows (peer and port match)",
        f"ingress: denied: {found.ingress.reason}",
        f"  cnp/default/in ingress[0]: does not apply ({nobody})",
    ]
    assert explain(source, destination, 6, 81).egress.rules[0].reason == "the port is not 80/TCP"


def test_explain_names_denials_built_in_rules_and_what_is_not_enforced_yet() -> None:
    engine = build()
    assert (
        "everything is allowed"
        in explain(Half(engine, CLIENT, SERVER), Half(engine, SERVER, CLIENT), 6, 80).egress.reason
    )
    engine.set_policy(policy(engine, ingress=[{**FROM_CLIENT, "toPorts": port("80", rules={"http": [{}]})}]))
    host = NumericIdentity(Reserved.HOST)
    pending = explain(Half(None, CLIENT, SERVER), Half(engine, SERVER, CLIENT), 6, 80)
    assert (pending.egress.allowed, pending.ingress.allowed) == (None, False)
    assert [note.effect for note in pending.ingress.rules] == ["does not apply", "would allow"]
    local = explain(Half(engine, host, SERVER), Half(engine, SERVER, host), 6, 80)
    assert "built-in/allow-localhost" in local.ingress.reason
    engine.set_policy(policy(engine, "deny", ingressDeny=[{"fromEntities": ["all"]}]))
    denied = explain(Half(engine, STRANGER, SERVER), Half(engine, SERVER, STRANGER), 6, 80)
    assert denied.ingress.reason == "denied by cnp/default/deny ingressDeny[0] (ALL)"
    unknown = explain(Half(None, CLIENT, SERVER), Half(engine, SERVER, host), 17, 1)
    assert unknown.allowed is False
