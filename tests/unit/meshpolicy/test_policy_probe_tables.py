# SPDX-License-Identifier: Apache-2.0
"""Who reaches whom under each kind of NetworkPolicy peer and port, both directions, three protocols: what Cyclonus probes.

Policies are of namespace x and about its pod a. Expected verdicts are Cilium's; where Kubernetes' text says something else,
the case says so. An address outside is tried beside the pods.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, Final, NamedTuple

import pytest

from meshpolicy.evaluate import evaluate_case

PODS: Final = [(space, pod) for space in "xyz" for pod in "abc"]
A: Final = ("x", "a")
OUTSIDE: Final = ("", "192.0.2.7")
PORTS: Final = [("TCP", 80), ("TCP", 81), ("UDP", 80), ("UDP", 81), ("SCTP", 80), ("SCTP", 81)]
NAMESPACE: Final = "io.kubernetes.pod.namespace"
NAMESPACE_LABELS: Final = "io.cilium.k8s.namespace.labels."
Peer = tuple[str, str]
Port = tuple[str, int]


class Case(NamedTuple):
    """Lists of rules, each of one policy (None: a policy without the direction), and what pod a lets through."""

    policies: list[list[dict[str, Any]] | None]
    allowed: Callable[[Peer, Port], bool]


def by(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, **({"values": list(values)} if values else {})}]}


def pods(selector: dict[str, Any]) -> dict[str, Any]:
    return {"podSelector": selector}


def spaces(selector: dict[str, Any]) -> dict[str, Any]:
    return {"namespaceSelector": selector}


def block(cidr: str, *holes: str) -> dict[str, Any]:
    return {"ipBlock": {"cidr": cidr, **({"except": list(holes)} if holes else {})}}


def rule(*peers: dict[str, Any], ports: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {**({"peers": list(peers)} if peers else {}), **({"ports": ports} if ports is not None else {})}


def every(peer: Peer, port: Port) -> bool:
    return True


def nobody(peer: Peer, port: Port) -> bool:
    return False


def on(*ports: Port) -> Callable[[Peer, Port], bool]:
    return lambda peer, port: port in ports


POD_B: Final = pods({"matchLabels": {"pod": "b"}})
CASES: Final = {
    "no rule denies": Case([[]], nobody),
    "an empty rule allows": Case([[rule()]], every),
    "a policy of the other direction says nothing": Case([None], every),
    "denying and allowing everything allows": Case([[], [rule()]], every),
    "denying and allowing some allows some": Case([[], [rule(POD_B)]], lambda peer, port: peer == ("x", "b")),
    "a pod by label": Case([[rule(POD_B)]], lambda peer, port: peer == ("x", "b")),
    "pods by In": Case([[rule(pods(by("pod", "In", "b", "c")))]], lambda peer, port: peer in (("x", "b"), ("x", "c"))),
    "pods by NotIn": Case([[rule(pods(by("pod", "NotIn", "b")))]], lambda peer, port: peer == ("x", "c")),
    "pods by Exists": Case([[rule(pods(by("pod", "Exists")))]], lambda peer, port: peer[0] == "x"),
    "pods by DoesNotExist": Case([[rule(pods(by("other", "DoesNotExist")))]], lambda peer, port: peer[0] == "x"),
    "pods by a label that none has": Case([[rule(pods({"matchLabels": {"pod": "d"}}))]], nobody),
    "every pod of the namespace": Case([[rule(pods({}))]], lambda peer, port: peer[0] == "x"),
    "every namespace": Case([[rule(spaces({}))]], lambda peer, port: peer[0] != ""),
    "a namespace by label": Case([[rule(spaces({"matchLabels": {"ns": "y"}}))]], lambda peer, port: peer[0] == "y"),
    "namespaces by In": Case([[rule(spaces(by("ns", "In", "x", "y")))]], lambda peer, port: peer[0] in ("x", "y")),
    # what has no namespace, as an address outside, is in none that a negative condition describes
    "namespaces by NotIn": Case([[rule(spaces(by("ns", "NotIn", "y")))]], lambda peer, port: peer[0] in ("x", "z")),
    "namespaces by DoesNotExist": Case([[rule(spaces(by("other", "DoesNotExist")))]], lambda peer, port: peer[0] != ""),
    "a namespace by its own name": Case(
        [[rule(spaces({"matchLabels": {"kubernetes.io/metadata.name": "z"}}))]], lambda peer, port: peer[0] == "z"
    ),
    "pods of a namespace": Case(
        [[rule({**spaces({"matchLabels": {"ns": "y"}}), **POD_B})]], lambda peer, port: peer == ("y", "b")
    ),
    "pods of every namespace": Case([[rule({**spaces({}), **POD_B})]], lambda peer, port: peer[1] == "b"),
    "two peers are OR": Case(
        [[rule(POD_B, spaces({"matchLabels": {"ns": "y"}}))]], lambda peer, port: peer == ("x", "b") or peer[0] == "y"
    ),
    "a block around the address": Case([[rule(block("192.0.2.0/24"))]], lambda peer, port: peer == OUTSIDE),
    "a block beside the address": Case([[rule(block("192.0.3.0/24"))]], nobody),
    "an exception around the address": Case([[rule(block("192.0.2.0/24", "192.0.2.0/28"))]], nobody),
    "an exception beside the address": Case(
        [[rule(block("192.0.2.0/24", "192.0.2.16/28"))]], lambda peer, port: peer == OUTSIDE
    ),
    "an exception that another policy allows": Case(
        [[rule(block("192.0.2.0/24", "192.0.2.7/32"))], [rule(block("192.0.2.7/32"))]],
        lambda peer, port: peer == OUTSIDE,
    ),
    # Kubernetes: a block that holds the addresses of pods selects them. Cilium, and here: it never does.
    "a block around the pods": Case([[rule(block("10.0.0.0/8"))]], nobody),
    "a block of everything": Case([[rule(block("0.0.0.0/0"))]], lambda peer, port: peer == OUTSIDE),
    "a block or a pod": Case([[rule(block("192.0.2.0/24"), POD_B)]], lambda peer, port: peer in (OUTSIDE, ("x", "b"))),
    "no port means every one": Case([[rule(ports=[])]], every),
    "an empty port is all of TCP": Case([[rule(ports=[{}])]], lambda peer, port: port[0] == "TCP"),
    **{
        f"all of {protocol}": Case(
            [[rule(ports=[{"protocol": protocol}])]], lambda peer, port, p=protocol: port[0] == p
        )
        for protocol in ("TCP", "UDP", "SCTP")
    },
    **{
        f"{number} on {protocol}": Case(
            [[rule(ports=[{"port": number, "protocol": protocol}])]], on((protocol, number))
        )
        for protocol, number in PORTS
    },
    **{
        f"a name on {protocol}": Case(
            [[rule(ports=[{"port": f"serve-{protocol.lower()}", "protocol": protocol}])]],
            lambda peer, port, p=protocol: port == (p, 80) and peer != OUTSIDE,
        )
        for protocol in ("TCP", "UDP", "SCTP")
    },
    "a name of another protocol": Case([[rule(ports=[{"port": "serve-udp", "protocol": "TCP"}])]], nobody),
    "a name that no pod has": Case([[rule(ports=[{"port": "none", "protocol": "TCP"}])]], nobody),
    "a number that nothing listens on": Case([[rule(ports=[{"port": 7981, "protocol": "TCP"}])]], nobody),
    "a range": Case([[rule(ports=[{"port": 79, "endPort": 80, "protocol": "UDP"}])]], on(("UDP", 80))),
    "two ports are OR": Case(
        [[rule(ports=[{"port": 80, "protocol": "TCP"}, {"port": 81, "protocol": "UDP"}])]], on(("TCP", 80), ("UDP", 81))
    ),
    "peers and ports are AND": Case(
        [[rule(POD_B, ports=[{"port": 80}])]], lambda peer, port: (peer, port) == (("x", "b"), ("TCP", 80))
    ),
    "two rules are OR": Case(
        [[rule(POD_B, ports=[{"port": 80}]), rule(ports=[{"port": 81, "protocol": "UDP"}])]],
        lambda peer, port: (peer, port) == (("x", "b"), ("TCP", 80)) or port == ("UDP", 81),
    ),
}
INGRESS_NAMES: Final = [f"a name on {protocol}" for protocol in ("TCP", "UDP", "SCTP")]
"""On ingress a name is a port of pod a itself, so that an address outside may use it too."""


def written(rules: list[dict[str, Any]] | None, direction: str, number: int) -> dict[str, Any]:
    word = "from" if direction == "ingress" else "to"
    other = "egress" if direction == "ingress" else "ingress"
    named, section = (direction, rules) if rules is not None else (other, [{}])
    spec = {
        "podSelector": {"matchLabels": {"pod": "a"}},
        "policyTypes": [named.capitalize()],
        named: [{(word if key == "peers" else key): value for key, value in r.items()} for r in section],
    }
    return {"kind": "NetworkPolicy", "metadata": {"name": f"p{number}", "namespace": "x"}, "spec": spec}


def name(peer: Peer) -> str:
    return peer[1] if peer == OUTSIDE else "/".join(peer)


@pytest.mark.parametrize(("direction", "title"), [*product(("ingress", "egress"), CASES)])
def test_pod_a_and_every_peer_on_every_port(direction: str, title: str) -> None:
    case, is_in = CASES[title], direction == "ingress"
    ids = {
        name((space, pod)): [
            f"k8s:pod={pod}",
            f"k8s:{NAMESPACE}={space}",
            f"k8s:{NAMESPACE_LABELS}ns={space}",
            f"k8s:{NAMESPACE_LABELS}kubernetes.io/metadata.name={space}",
            "k8s:io.cilium.k8s.policy.cluster=north",
        ]
        for space, pod in PODS
    }
    tried = [(peer, port) for peer in (*PODS, OUTSIDE) if peer != A for port in PORTS]
    flows = [[*((name(peer), name(A)) if is_in else (name(A), name(peer))), *port] for peer, port in tried]
    names = {f"serve-{protocol.lower()}": [80, protocol] for protocol in ("TCP", "UDP", "SCTP")}
    answer: Any = evaluate_case(
        {
            "cluster": "north",
            "scope": "",
            "ids": ids,
            "namedPorts": dict.fromkeys(ids, names),
            "policies": [written(rules, direction, number) for number, rules in enumerate(case.policies)],
            "flows": flows,
        }
    )
    assert answer["errors"] == []
    found = {key: verdict[is_in] == "allowed" for key, verdict in zip(tried, answer["verdicts"], strict=True)}
    expected = {
        (peer, port): case.allowed(("x", "b") if is_in and title in INGRESS_NAMES else peer, port)
        for peer, port in tried
    }
    assert found == expected
