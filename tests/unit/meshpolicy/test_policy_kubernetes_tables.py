# SPDX-License-Identifier: Apache-2.0
"""Who reaches whom under each kind of Kubernetes NetworkPolicy: three namespaces of three pods, every pair, two ports.

The cases are named after what Kubernetes' own end-to-end suite asks; the expected verdicts are Cilium's. Where the text of
Kubernetes says something else, the case says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import pytest

from meshpolicy.evaluate import evaluate_case

PODS: Final = [(namespace, pod) for namespace in "xyz" for pod in "abc"]
Pod = tuple[str, str]
NAMESPACE: Final = "io.kubernetes.pod.namespace"
NAMESPACE_LABELS: Final = "io.cilium.k8s.namespace.labels."


class Case(NamedTuple):
    """Policies of namespace x, and the connections (source, destination, port) that they let through."""

    specs: list[dict[str, Any]]
    allowed: Callable[[Pod, Pod, int], bool]


def pods(*names: str) -> dict[str, Any]:
    if len(names) == 1:
        return {"podSelector": {"matchLabels": {"pod": names[0]}}}
    return {"podSelector": {"matchExpressions": [{"key": "pod", "operator": "In", "values": list(names)}]}}


def spaces(*names: str) -> dict[str, Any]:
    return {"namespaceSelector": {"matchExpressions": [{"key": "ns", "operator": "In", "values": list(names)}]}}


def ingress(*rules: dict[str, Any], **subject: Any) -> dict[str, Any]:
    return {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": list(rules), **subject}


def egress(*rules: dict[str, Any], **subject: Any) -> dict[str, Any]:
    return {"podSelector": {}, "policyTypes": ["Egress"], "egress": list(rules), **subject}


def into_x(condition: Callable[[Pod, int], bool]) -> Callable[[Pod, Pod, int], bool]:
    """Every pod of x is isolated and lets in what meets the condition."""
    return lambda source, destination, port: destination[0] != "x" or condition(source, port)


A: Final = ("x", "a")
ON_80: Final = {"ports": [{"port": 80, "protocol": "TCP"}]}
CASES: Final = {
    "deny all ingress": Case([ingress()], into_x(lambda source, port: False)),
    "deny all egress": Case([egress()], lambda s, d, port: s[0] != "x"),
    "deny all": Case(
        [{"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}], lambda s, d, port: "x" not in (s[0], d[0])
    ),
    "no policyTypes and no rules is ingress": Case([{"podSelector": {}}], into_x(lambda source, port: False)),
    "an empty rule allows all": Case([ingress({})], lambda s, d, port: True),
    "an empty list of peers allows all": Case([ingress({"from": []})], lambda s, d, port: True),
    "pods of the own namespace": Case([ingress({"from": [pods("b")]})], into_x(lambda s, port: s == ("x", "b"))),
    "every pod of the own namespace": Case(
        [ingress({"from": [{"podSelector": {}}]})], into_x(lambda s, port: s[0] == "x")
    ),
    "every namespace": Case([ingress({"from": [{"namespaceSelector": {}}]})], into_x(lambda s, port: True)),
    "one namespace": Case([ingress({"from": [spaces("y")]})], into_x(lambda s, port: s[0] == "y")),
    "two namespaces by expression": Case([ingress({"from": [spaces("x", "y")]})], into_x(lambda s, port: s[0] in "xy")),
    "pods and namespaces together are AND": Case(
        [ingress({"from": [{**spaces("y", "z"), **pods("a", "b")}]})],
        into_x(lambda s, port: s[0] in "yz" and s[1] in "ab"),
    ),
    "pods and namespaces apart are OR": Case(
        [ingress({"from": [spaces("y"), pods("b")]})], into_x(lambda s, port: s[0] == "y" or s == ("x", "b"))
    ),
    "a port": Case([ingress(ON_80)], into_x(lambda s, port: port == 80)),
    "a port by name": Case([ingress({"ports": [{"port": "serve-81"}]})], into_x(lambda s, port: port == 81)),
    "a port range": Case([ingress({"ports": [{"port": 70, "endPort": 80}]})], into_x(lambda s, port: port == 80)),
    "a protocol without a port": Case([ingress({"ports": [{"protocol": "TCP"}]})], into_x(lambda s, port: True)),
    "another protocol": Case([ingress({"ports": [{"protocol": "UDP"}]})], into_x(lambda s, port: False)),
    "peers and ports of one rule are AND": Case(
        [ingress({"from": [spaces("y")], **ON_80})], into_x(lambda s, port: s[0] == "y" and port == 80)
    ),
    "rules of one policy are OR": Case(
        [ingress({"from": [spaces("y")]}, ON_80)], into_x(lambda s, port: s[0] == "y" or port == 80)
    ),
    "policies are OR": Case(
        [ingress(), ingress({"from": [spaces("y")]}), ingress(ON_80, **pods("a"))],
        lambda s, d, port: d[0] != "x" or s[0] == "y" or (d == A and port == 80),
    ),
    "one subject by label": Case([ingress(**pods("a"))], lambda s, d, port: d != A),
    "subjects by NotIn": Case(
        [ingress(podSelector={"matchExpressions": [{"key": "pod", "operator": "NotIn", "values": ["a"]}]})],
        lambda s, d, port: d[0] != "x" or d == A,
    ),
    "egress to a namespace": Case([egress({"to": [spaces("y")]})], lambda s, d, port: s[0] != "x" or d[0] == "y"),
    "egress to a port by name": Case(
        [egress({"ports": [{"port": "serve-80"}]})], lambda s, d, port: s[0] != "x" or port == 80
    ),
    "ingress and egress are judged apart": Case(
        [egress({"to": [pods("b")]}, **pods("a")), ingress({"from": [pods("a")]}, **pods("b"))],
        lambda s, d, port: (s != A or d == ("x", "b")) and (d != ("x", "b") or s == A),
    ),
    # Kubernetes: any address in the block, pods included. Cilium, and here: addresses outside of the mesh only.
    "ipBlock selects no pods": Case(
        [ingress({"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]})], into_x(lambda s, port: False)
    ),
}


def name(pod: Pod) -> str:
    return "/".join(pod)


@pytest.mark.parametrize("title", CASES)
def test_every_pair_of_pods_on_both_ports(title: str) -> None:
    case = CASES[title]
    documents = [
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": f"p{n}", "namespace": "x"},
            "spec": spec,
        }
        for n, spec in enumerate(case.specs)
    ]
    ids = {
        name((space, pod)): [
            f"k8s:pod={pod}",
            f"k8s:{NAMESPACE}={space}",
            f"k8s:{NAMESPACE_LABELS}ns={space}",
            "k8s:io.cilium.k8s.policy.cluster=north",
        ]
        for space, pod in PODS
    }
    ports = {"serve-80": [80, "TCP"], "serve-81": [81, "TCP"]}
    flows = [(s, d, port) for s in PODS for d in PODS if s != d for port in (80, 81)]
    answer = evaluate_case(
        {
            "cluster": "north",
            "scope": "north",
            "ids": ids,
            "namedPorts": dict.fromkeys(ids, ports),
            "policies": documents,
            "flows": [[name(s), name(d), "TCP", port] for s, d, port in flows],
        }
    )
    assert answer["errors"] == []
    found = {flow: verdict == ["allowed", "allowed"] for flow, verdict in zip(flows, answer["verdicts"], strict=True)}  # type: ignore[call-overload]
    assert found == {flow: case.allowed(*flow) for flow in flows}
