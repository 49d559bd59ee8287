# SPDX-License-Identifier: Apache-2.0
"""Policies that changed while no agent ran: the next one opens nothing on its way, wherever it is killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from agent.datapath.layout import PolicyKey, PolicyValue
from meshmodel.labels import Labels, pod_labels
from meshpolicy.evaluate import ALLOWED, DENIED
from tests.packet.packet_node import NEIGHBOUR_ID, POD_ID, PacketNode
from tests.packet.test_packet_documents import ALL, CASES, DENIALS, cilium, group, kubernetes, said
from tests.packet.test_packet_nodes import NORTH
from tests.packet.test_packet_policy_killed import BETWEEN, Agent, Killed, passed

pytestmark = pytest.mark.root


def _denied(*prefixes: str) -> list[dict[str, object]]:
    return [cilium(ingress=ALL, ingressDeny=[{"fromCIDR": list(prefixes)}], egress=[{}])]


CASES_HERE = {
    "a part denied": _denied("10.200.2.0/24"),
    "two parts denied": _denied("10.200.1.0/24", "10.200.2.2/32"),
    "everything denied": _denied("0.0.0.0/0"),
    "a smaller group denied": [
        group("partners", ["10.200.1.1/32"]),
        cilium(
            ingress=ALL,
            ingressDeny=[{"fromCIDRSet": [{"cidrGroupRef": "partners"}], "toPorts": [{"ports": [{"port": "80"}]}]}],
        ),
    ],
}
CHANGES = [
    ("deny addresses", "a part denied"),
    ("everything denied", "two parts denied"),
    ("two parts denied", "deny addresses"),
    ("a port", "CIDR but"),
    ("CIDR but", "one of the excepted"),
    ("a group denied", "a smaller group denied"),
    ("a smaller group denied", "a group denied"),
    ("CIDR but", "world"),
    ("a group", "a group that is not there"),
    ("nodes denied", "deny addresses"),
    ("a port", "nodes denied"),
    ("Admin accepts", "Admin passes"),
    ("Admin passes", "Baseline denies"),
    ("Baseline denies", "Baseline of the isolated"),
    ("deny addresses", "Admin accepts"),
]


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_an_agent_that_starts_with_other_policies_opens_nothing_on_its_way(
    node: PacketNode, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    for name, documents in CASES_HERE.items():
        monkeypatch.setitem(CASES, name, documents)
    before, after = said(old), said(new)
    for kills in _killed(node, lambda: Agent(node, old), lambda: Agent(node, new)):
        for flow, result in passed(node, BETWEEN).items():
            assert result == DENIED or ALLOWED in (before[flow], after[flow]), (kills, flow)
    assert passed(node, DENIALS, 500) == after


FULL_CHANGES = [
    ("deny addresses", "a part denied"),
    ("everything denied", "two parts denied"),
    ("a group denied", "a smaller group denied"),
]
GONE_ID = 4_000


def _fill_policies(node: PacketNode) -> None:
    """No entry more finds room: the rest belongs to a pod that is gone."""
    info = node.maps.policy.info()
    keys = [PolicyKey(GONE_ID, 0, n, 0, 0, 0) for n in range(1, info.max_entries - info.count + 1)]
    node.maps.policy.update([(key, PolicyValue(False, 1, 1, 0)) for key in keys])


@pytest.mark.parametrize(("old", "new"), FULL_CHANGES)
def test_an_agent_that_finds_no_room_for_new_ranges_closes_the_pod_before_addresses_have_them(
    node: PacketNode, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    for name, documents in CASES_HERE.items():
        monkeypatch.setitem(CASES, name, documents)
    before, after = said(old), said(new)
    has_new_ranges = False
    for kills in range(16):
        node.reset()
        Agent(node, old).work()
        addresses = dict(node.maps.ipcache.items())
        _fill_policies(node)
        agent = Agent(node, new)
        agent.die_after(kills)
        with pytest.raises(Killed):
            agent.work()
        has_new_ranges |= dict(node.maps.ipcache.items()) != addresses
        for flow, result in passed(node, BETWEEN).items():
            assert result == DENIED or ALLOWED in (before[flow], after[flow]), (kills, flow)
    assert has_new_ranges
    Agent(node, new).work()
    assert passed(node, DENIALS, 500) == after


RENUMBERED = NEIGHBOUR_ID + 77
RELABELLED = pod_labels({"app": "b", "version": "2"}, "shop", {"team": "new"}, "default", NORTH)


@pytest.mark.parametrize("name", ["deny over allow", "no default deny", "Admin passes", "Baseline denies"])
def test_a_peer_that_got_other_labels_meanwhile_is_denied_what_both_its_identities_are_denied(
    node: PacketNode, name: str
) -> None:
    expected = said(name)

    def start_again() -> Agent:
        agent = Agent(node, name)
        agent.renumber_neighbour(RENUMBERED, RELABELLED)
        return agent

    for kills in _killed(node, lambda: Agent(node, name), start_again):
        for flow, result in passed(node, BETWEEN).items():
            assert result == DENIED or expected[flow] == ALLOWED, (kills, flow)
    assert passed(node, DENIALS, 500) == expected


@pytest.mark.parametrize("kills", [(1, 0), (2, 1), (3, 3), (8, 6)])
def test_two_agents_that_are_killed_one_after_the_other_let_no_relabelled_peer_in(
    node: PacketNode, kills: tuple[int, int]
) -> None:
    expected = said("deny over allow")
    Agent(node, "deny over allow").work()
    for writes in kills:
        agent = Agent(node, "deny over allow")
        agent.renumber_neighbour(RENUMBERED, RELABELLED)
        agent.die_after(writes)
        with suppress(Killed):
            agent.work()
    for flow, result in passed(node, BETWEEN).items():
        assert result == DENIED or expected[flow] == ALLOWED, flow


def _by_label(**sides: Any) -> dict[str, Any]:
    """A policy for pods that have this label, one part for each."""
    parts = [{"endpointSelector": {"matchLabels": {"side": side}}, **spec} for side, spec in sides.items()]
    document = cilium()
    del document["spec"]
    return document | {"specs": parts}


OLD_TEAM, NEW_TEAM = ({"namespaceSelector": {"matchLabels": {"team": team}}} for team in ("old", "new"))
TEAM = "k8s:io.cilium.k8s.namespace.labels.team"
OF_EITHER_TEAM = {"matchExpressions": [{"key": TEAM, "operator": "In", "values": ["old", "new"]}]}
OWN_LABELS = {
    "one side denies": [
        _by_label(
            left={"ingress": ALL, "ingressDeny": [{"fromEndpoints": [{}]}]},
            right={"ingress": ALL, "ingressDeny": [{"fromCIDR": ["10.200.0.0/16"]}]},
        )
    ],
    "one side is not enforced": [_by_label(left={"egress": [{}]}, right={"ingress": [{}]})],
    "one side names ranges": [
        _by_label(
            left={"ingress": [{"fromCIDR": ["10.200.0.0/16"]}]},
            right={"ingress": [{"fromCIDRSet": [{"cidr": "10.200.0.0/16", "except": ["10.200.2.0/24"]}]}]},
        )
    ],
}
NAMESPACE_LABELS = {
    "the old label lets in": [kubernetes(policyTypes=["Ingress"], ingress=[{"from": [OLD_TEAM]}])],
    "the new label lets in": [kubernetes(policyTypes=["Ingress"], ingress=[{"from": [NEW_TEAM]}])],
    "both labels deny": [cilium(ingress=ALL, ingressDeny=[{"fromEndpoints": [OF_EITHER_TEAM]}], egress=[{}])],
}


def _labels(app: str, side: str = "", team: str = "") -> Labels:
    own = {"app": app, **({"side": side} if side else {})}
    return pod_labels(own, "shop", {"team": team} if team else {}, "default", NORTH)


@pytest.mark.parametrize("name", OWN_LABELS)
@pytest.mark.parametrize(("old", "new"), [("left", "right"), ("right", "left")])
def test_a_pod_that_got_other_labels_meanwhile_opens_nothing_that_neither_of_them_opens(
    node: PacketNode, monkeypatch: pytest.MonkeyPatch, name: str, old: str, new: str
) -> None:
    monkeypatch.setitem(CASES, name, OWN_LABELS[name])
    had, has = _labels("a", side=old), _labels("a", side=new)
    before, after = said(name, subject=had), said(name, subject=has)
    assert before != after

    def start(identity: int, labels: Labels) -> Agent:
        agent = Agent(node, name)
        agent.renumber_subject(identity, labels)
        return agent

    for kills in _killed(node, lambda: start(POD_ID, had), lambda: start(POD_ID + 70, has)):
        for flow, result in passed(node, BETWEEN).items():
            assert result == DENIED or ALLOWED in (before[flow], after[flow]), (kills, flow)
    assert passed(node, DENIALS, 500) == after


@pytest.mark.parametrize("name", NAMESPACE_LABELS)
def test_a_namespace_that_got_another_label_meanwhile_opens_nothing_for_its_pods_on_the_way(
    node: PacketNode, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The pod and its neighbour are of the namespace: both have another identity after it."""
    monkeypatch.setitem(CASES, name, NAMESPACE_LABELS[name])
    before, after = (
        said(name, subject=_labels("a", team=team), neighbour=_labels("b", team=team)) for team in ("old", "new")
    )
    assert DENIED in after.values()

    def start(more: int, team: str) -> Agent:
        agent = Agent(node, name)
        agent.renumber_subject(POD_ID + more, _labels("a", team=team))
        agent.renumber_neighbour(NEIGHBOUR_ID + more, _labels("b", team=team))
        return agent

    for kills in _killed(node, lambda: start(0, "old"), lambda: start(70, "new")):
        for flow, result in passed(node, BETWEEN).items():
            assert result == DENIED or ALLOWED in (before[flow], after[flow]), (kills, flow)
    assert passed(node, DENIALS, 500) == after


def _killed(node: PacketNode, first: Callable[[], Agent], second: Callable[[], Agent]) -> Iterator[int]:
    """After the first agent's work the second is killed after no write, after one, ... until it has done all of it."""
    kills = 0
    while True:
        node.reset()
        first().work()
        agent = second()
        agent.die_after(kills)
        try:
            agent.work()
        except Killed:
            yield kills
            kills += 1
        else:
            assert kills > 1
            return
