# SPDX-License-Identifier: Apache-2.0
"""Host policies: whom they select, what they say to whom, and what the guard keeps open whatever they say."""

from __future__ import annotations

from typing import Any

import pytest

from meshmodel.identity import LOCAL_SCOPE_REMOTE_NODE, NumericIdentity, Reserved
from meshmodel.labels import pod_labels
from meshmodel.names import ClusterName
from meshpolicy import Direction, Engine, Policy, PolicyContext, PolicyError, parse_policy
from meshpolicy.evaluate import evaluate_case
from meshpolicy.host_guard import GuardFacts, guard_policy, parse_open_port
from meshpolicy.node_peer import node_labels
from meshpolicy.rebuild import differences
from meshpolicy.reference import HOST_GUARD

IN, OUT = Direction.INGRESS, Direction.EGRESS
ICMP, IGMP, TCP, UDP, VRRP = 1, 2, 6, 17, 112
NORTH = ClusterName("north")
CONTEXT = PolicyContext(NORTH)
HOST, WORLD, NODE = NumericIdentity(Reserved.HOST), int(Reserved.WORLD), int(Reserved.REMOTE_NODE)
CONTROL, POD, EDGE = int(Reserved.KUBE_APISERVER), 65536 + 7, LOCAL_SCOPE_REMOTE_NODE + 5
APISERVER = 65536 + 8
FACTS = GuardFacts((("192.168.50.11", 6443), ("203.0.113.9", 443)), open_ports=(parse_open_port("22/TCP"),))
SSH = [{"ports": [{"port": "22", "protocol": "TCP"}]}]
WEB = [{"ports": [{"port": "80", "protocol": "TCP"}]}]


def policy(selector: dict[str, Any], name: str = "p", **spec: Any) -> Policy:
    meta = {"name": name}
    document = {"apiVersion": "cilium.io/v2", "kind": "CiliumClusterwideNetworkPolicy", "metadata": meta}
    return parse_policy({**document, "spec": {**selector, **spec}}, CONTEXT)


def host(labels: dict[str, str] | None = None, **spec: Any) -> Policy:
    return policy({"nodeSelector": {"matchLabels": labels} if labels else {}}, **spec)


def engine(*policies: Policy, labels: dict[str, str] | None = None, facts: GuardFacts | None = FACTS) -> Engine:
    made = Engine(CONTEXT)
    made.endpoint_policy(HOST)
    if facts is not None:
        made.set_policy(guard_policy(facts))
    for one in policies:
        made.set_policy(one)
    if labels is not None:
        made.set_identity(HOST, node_labels(labels, NORTH, made.node_keys(), is_own=True))
    made.set_identity(NumericIdentity(POD), pod_labels({"app": "a"}, "shop", {}, "default", NORTH))
    system = pod_labels({"k8s-app": "clustermesh-apiserver"}, "kube-system", {}, "default", NORTH)
    made.set_identity(NumericIdentity(APISERVER), system)
    made.set_identity(NumericIdentity(EDGE), node_labels({"role": "edge"}, NORTH, made.node_keys(), is_own=False))
    assert not differences(made)
    return made


def says(made: Engine, direction: Direction, peer: int, protocol: int, port: int) -> tuple[bool, str]:
    verdict = made.endpoint_policy(HOST).verdict(direction, peer, protocol, port)
    return verdict.allowed, str(verdict.entry.rule) if verdict.entry is not None else ""


def is_judged(made: Engine) -> bool:
    found = made.endpoint_policy(HOST)
    assert found.ingress_enforced == found.egress_enforced
    return found.ingress_enforced


def test_a_node_that_no_host_policy_selects_is_not_judged_whatever_else_there_is() -> None:
    pods = policy({"endpointSelector": {}}, ingress=[{}], egress=[{}])
    assert not is_judged(engine(pods))
    assert not is_judged(engine(host({"role": "edge"}, ingress=[{}]), labels={"role": "core"}))
    assert not is_judged(engine(host({"role": "edge"}, ingress=[{}])))  # its labels are not known


def test_a_host_policy_is_about_no_pod() -> None:
    made = engine(host(ingress=[{}], egress=[{}]))
    found = made.endpoint_policy(NumericIdentity(POD))
    assert (found.ingress_enforced, found.egress_enforced) == (False, False)


@pytest.mark.parametrize("key", ["role", "k8s:role", "any:role"])
def test_a_node_is_selected_by_the_labels_that_it_has_now(key: str) -> None:
    made = engine(host({key: "edge"}, ingress=[{}]), labels={"role": "edge"})
    assert is_judged(made)
    for role, judged in (("core", False), ("edge", True)):
        change = made.set_identity(HOST, node_labels({"role": role}, NORTH, made.node_keys(), is_own=True))
        assert (HOST in change.affected, is_judged(made)) == (True, judged)
        assert not differences(made)


def test_a_subject_that_is_no_label_of_nodes_is_refused() -> None:
    with pytest.raises(PolicyError, match="not a label of nodes"):
        host({"reserved:host": ""}, ingress=[{}])


PEERS: dict[str, tuple[dict[str, Any], set[int]]] = {
    "everybody": ({}, {WORLD, NODE, CONTROL, POD, EDGE}),
    "world": ({"fromEntities": ["world"]}, {WORLD}),
    "remote-node": ({"fromEntities": ["remote-node"]}, {NODE, CONTROL, EDGE}),
    "kube-apiserver": ({"fromEntities": ["kube-apiserver"]}, {CONTROL}),
    "cluster": ({"fromEntities": ["cluster"]}, {NODE, CONTROL, POD, EDGE}),
    "pods by label": ({"fromEndpoints": [{"matchLabels": {"app": "a"}}]}, {POD}),
    "pods": ({"fromEndpoints": [{}]}, {POD}),
    "nodes by label": ({"fromNodes": [{"matchLabels": {"role": "edge"}}]}, {EDGE}),
}


@pytest.mark.parametrize("name", PEERS)
def test_who_may_come_in(name: str) -> None:
    peers, allowed = PEERS[name]
    made = engine(host(ingress=[{**peers, "toPorts": WEB}]))
    assert {peer for peer in (WORLD, NODE, CONTROL, POD, EDGE) if says(made, IN, peer, TCP, 80)[0]} == allowed
    assert not any(says(made, IN, peer, TCP, 81)[0] for peer in (WORLD, NODE, CONTROL, POD, EDGE))
    assert says(made, OUT, WORLD, TCP, 81) == (True, "built-in/allow-without-default-deny")


def test_icmp_and_egress_are_judged_like_those_of_pods() -> None:
    made = engine(host(egress=[{"icmps": [{"fields": [{"type": "EchoRequest"}]}], "toEntities": ["world"]}]))
    assert (says(made, OUT, WORLD, ICMP, 8)[0], says(made, OUT, WORLD, ICMP, 0)[0]) == (True, False)
    assert (says(made, OUT, WORLD, TCP, 443)[0], says(made, OUT, NODE, ICMP, 8)[0]) == (False, False)


EVERYTHING = {
    "ingress": [{}],
    "egress": [{}],
    "ingressDeny": [{"fromEntities": ["all"]}],
    "egressDeny": [{"toEntities": ["all"]}],
}
GUARDED = [
    (OUT, NODE, TCP, 6443, "egress api-server"),
    (OUT, CONTROL, TCP, 6443, "egress api-server"),
    (IN, NODE, TCP, 10250, "ingress kubelet"),
    (IN, CONTROL, TCP, 10250, "ingress kubelet"),
    (OUT, NODE, TCP, 10250, "egress kubelet"),
    (IN, WORLD, UDP, 8472, "ingress overlay"),
    (OUT, NODE, UDP, 8472, "egress overlay"),
    (IN, NODE, TCP, 32379, "ingress mesh"),
    (OUT, WORLD, TCP, 2379, "egress mesh"),
    (OUT, POD, TCP, 9880, "egress mesh"),  # how the API server asks for the status
    (IN, EDGE, TCP, 9879, "ingress agent"),
    (IN, APISERVER, TCP, 9879, "ingress agent"),
    (IN, EDGE, TCP, 4244, "ingress agent"),
    (IN, APISERVER, TCP, 4244, "ingress agent"),  # the relay runs where the apiserver does
    (OUT, NODE, TCP, 4244, "egress agent"),
    (IN, WORLD, ICMP, 3, "ingress icmp-errors"),
    (OUT, WORLD, UDP, 53, "egress dns"),
    (OUT, WORLD, UDP, 67, "egress dhcp"),
    (IN, WORLD, UDP, 68, "ingress dhcp"),
    (IN, WORLD, TCP, 22, "ingress setting"),
    (IN, NODE, VRRP, 0, "ingress vrrp"),
    (IN, CONTROL, VRRP, 0, "ingress vrrp"),
    (OUT, WORLD, VRRP, 0, "egress vrrp"),
    (IN, WORLD, IGMP, 0, "ingress igmp"),
    (OUT, WORLD, IGMP, 0, "egress igmp"),
]
NOT_GUARDED = [
    (IN, WORLD, TCP, 10250),
    (IN, POD, TCP, 10250),
    (IN, WORLD, TCP, 6443),
    (IN, WORLD, TCP, 9879),
    (IN, WORLD, TCP, 2379),  # of the cluster's own etcd
    (IN, WORLD, TCP, 9880),
    (IN, POD, TCP, 9879),
    (IN, POD, TCP, 4244),
    (IN, WORLD, TCP, 4244),
    (IN, NODE, TCP, 80),
    (OUT, WORLD, TCP, 6443),
    (OUT, WORLD, TCP, 22),
    (OUT, NODE, TCP, 443 + 1),
    (IN, WORLD, ICMP, 8),
    (IN, WORLD, VRRP, 0),
    (IN, POD, VRRP, 0),
]


@pytest.mark.parametrize(("direction", "peer", "protocol", "port", "rule"), GUARDED)
def test_the_guard_decides_before_a_policy_that_denies_everything(
    direction: Direction, peer: int, protocol: int, port: int, rule: str
) -> None:
    assert says(engine(host(**EVERYTHING)), direction, peer, protocol, port) == (True, f"{HOST_GUARD} {rule}")


@pytest.mark.parametrize(("direction", "peer", "protocol", "port"), NOT_GUARDED)
def test_of_what_the_guard_does_not_speak_the_policy_decides(
    direction: Direction, peer: int, protocol: int, port: int
) -> None:
    allowed, rule = says(engine(host(**EVERYTHING)), direction, peer, protocol, port)
    assert (allowed, rule.partition(" ")[0]) == (False, "ccnp/p")


def test_the_api_server_of_a_control_plane_is_open_and_outside_ones_are_reached() -> None:
    made = engine(host(**EVERYTHING), facts=GuardFacts((("203.0.113.9", 443),), is_api_server=True))
    outside = int(made.prefixes()["203.0.113.9/32"])
    assert says(made, OUT, outside, TCP, 443) == (True, f"{HOST_GUARD} egress api-server")
    assert says(made, IN, outside, TCP, 10250) == (True, f"{HOST_GUARD} ingress kubelet")
    assert says(made, IN, WORLD, TCP, 443) == (True, f"{HOST_GUARD} ingress api-server")
    assert not says(made, OUT, WORLD, TCP, 443)[0]


def test_policies_and_the_guard_come_and_go_as_if_they_had_been_there_from_the_start() -> None:
    made = engine(facts=None)
    first, second = host(ingress=[{"toPorts": SSH}]), host(name="q", egressDeny=[{"toEntities": ["world"]}])
    for change in (
        lambda: made.set_policy(first),
        lambda: made.set_policy(guard_policy(FACTS)),
        lambda: made.set_policy(second),
        lambda: made.remove_policy(first.key),
        lambda: made.set_policy(first),
        lambda: made.remove_policy(HOST_GUARD),
        lambda: made.remove_policy(second.key),
        lambda: made.remove_policy(first.key),
    ):
        assert HOST in change().affected
        made.endpoint_policy(HOST)
        assert not differences(made)
    assert not is_judged(made)


def test_an_evaluated_case_has_the_guard_where_nodes_are_judged() -> None:
    document = {
        "apiVersion": "cilium.io/v2", "kind": "CiliumClusterwideNetworkPolicy", "metadata": {"name": "p"},
        "spec": {"nodeSelector": {"matchLabels": {"role": "edge"}}, **EVERYTHING},
    }  # fmt: skip
    flows = [["world", "own", "TCP", 22], ["node", "own", "TCP", 10250], ["own", "world", "UDP", 53]]
    ids = {"own": ["reserved:host=", "node:role=edge"], "node": ["reserved:remote-node="], "world": ["reserved:world="]}
    said = evaluate_case({"cluster": "north", "ids": ids, "policies": [document], "flows": flows})
    verdicts = [["allowed", "denied"], ["allowed", "allowed"], ["allowed", "allowed"]]
    assert said == {"errors": [], "verdicts": verdicts}


@pytest.mark.parametrize("text", ["twenty-two", "0/TCP", "70000/TCP", "22/ICMP", "-1/UDP", ""])
def test_an_open_port_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no port"):
        parse_open_port(text)
