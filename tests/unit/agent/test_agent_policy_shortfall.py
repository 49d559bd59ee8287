# SPDX-License-Identifier: Apache-2.0
"""A policy whose pod has no room for it says so on its object, beside what other nodes say, until there is room."""

from __future__ import annotations

from typing import Any
from unittest.mock import create_autospec

import pytest

from agent.policy.compiler import PolicyCompiler
from agent.policy.shortfall import find_shortfalls
from agent.policy.source import REASON_PARTLY, PolicySource, strip_policy
from agent.tables import AgentDB, Endpoint, Identity
from kube.client import KubeClient
from kube.reflector import Upsert
from kube.resource import CNP, KubeObject
from meshkit.clock import ManualClock
from meshmodel.labels import pod_labels
from meshmodel.names import ClusterId, ClusterName
from meshpolicy import PolicyContext, PolicyRef, endpoint_views

NORTH = ClusterName("north")
FULL = "the policy map is full: what is allowed beyond it is denied"
OTHER = {"type": "Enforced", "status": "False", "message": "node n9: pod shop/far: no room"}


class Node:
    """Pods web-0 to web-4 and db-0, a policy of the web pods, and a client that writes conditions and Events down."""

    def __init__(self) -> None:
        self.db = AgentDB(NORTH, ClusterId(1))
        self.compiler = PolicyCompiler(self.db, PolicyContext(NORTH), lambda _prefixes: None)
        with self.db.write():
            for number, app in ((300, "web"), (301, "db")):
                self.db.identities.put(Identity(number, NORTH, pod_labels({"app": app}, "shop", {}, "default", NORTH)))
            for n in range(5):
                self.db.endpoints.put(Endpoint(f"10.1.0.{n}", n, n, "", "", 300, "shop", f"web-{n}"))
            self.db.endpoints.put(Endpoint("10.1.0.9", 9, 9, "", "", 301, "shop", "db-0"))
        self.client = create_autospec(KubeClient, instance=True)
        self.source = PolicySource(self.client, self.compiler, lambda: None, ManualClock(), "n1")

    def see(self, *conditions: dict[str, str]) -> None:
        """The API server shows the object with these conditions."""
        self.source.take(CNP, [Upsert("shop/web-in", web_in(*conditions))], lambda: None)
        self.compiler.step()

    def fail(self, **failures: str) -> None:
        pods = {e.pod.replace("-", ""): e.address for e in self.db.endpoints.rows()}
        by_address = {pods[pod]: reason for pod, reason in failures.items()}
        self.source.set_shortfalls(find_shortfalls(self.db, self.compiler.engine, by_address))

    def sent(self) -> tuple[list[list[dict[str, Any]]], list[tuple[str, str]]]:
        """Conditions of each write, and reason and text of each Event, since the last call."""
        self.client.reset_mock()
        while not self.source._reports.empty():
            self.source._send(self.source._reports.get_nowait())
        bodies = [call.args[2]["conditions"] for call in self.client.patch_status.call_args_list]
        events = [call.args[1] for call in self.client.create.call_args_list]
        return bodies, [(event["reason"], event["message"]) for event in events]

    def look(self) -> None:
        """What the engine closes is told."""
        self.compiler.step()
        closed = self.compiler.closed_endpoints()
        self.source.set_shortfalls(find_shortfalls(self.db, self.compiler.engine, closed))


def web_in(*conditions: dict[str, str]) -> KubeObject:
    spec = {"endpointSelector": {"matchLabels": {"app": "web"}}, "ingress": [{}]}
    meta = {"name": "web-in", "namespace": "shop"}
    document = {"apiVersion": CNP.api_version, "kind": CNP.kind, "metadata": meta, "spec": spec}
    return strip_policy(document | {"status": {"conditions": list(conditions)}})


VALID = {"type": "Valid", "status": "True", "message": "Policy validation succeeded"}


def test_a_policy_without_room_says_so_on_its_object_and_as_an_event_and_no_more_when_there_is_room() -> None:
    node = Node()
    node.see(VALID)
    node.fail(web1=FULL)
    said = {"type": "Enforced", "status": "False", "message": f"node n1: pod shop/web-1: {FULL}"}
    assert node.sent() == ([[VALID, said]], [(REASON_PARTLY, said["message"])])
    node.see(VALID, said)
    node.fail(web1=FULL)
    assert node.sent() == ([], [])
    node.fail()
    assert node.sent() == ([[VALID]], [])


def test_what_other_nodes_say_stays_and_what_they_take_away_is_said_again() -> None:
    node = Node()
    node.see(VALID, OTHER)
    node.fail(web1=FULL)
    ((conditions,), _) = node.sent()
    lines = conditions[1]["message"].split("\n")
    assert lines == [f"node n1: pod shop/web-1: {FULL}", OTHER["message"]]
    node.see(VALID, OTHER)  # another node wrote what it had read before
    assert node.sent()[0] == [conditions for _ in range(1)]
    node.see(*conditions)
    node.fail()
    assert node.sent()[0] == [[VALID, OTHER]]


def test_what_an_earlier_agent_of_the_node_said_goes_when_it_is_not_so_any_more() -> None:
    node = Node()
    node.see(VALID, {"type": "Enforced", "status": "False", "message": "node n1: pod shop/gone: no room"})
    assert node.sent()[0] == [[VALID]]


def test_a_policy_of_other_pods_is_not_concerned_and_of_many_pods_three_are_named() -> None:
    node = Node()
    node.see(VALID)
    node.fail(db0=FULL)
    assert node.sent() == ([], [])
    node.fail(web0="a", web1="b", web2="c", web3="d", web4="e")
    ((conditions,), _) = node.sent()
    assert conditions[1]["message"] == (
        "node n1: pod shop/web-0: a; pod shop/web-1: b; pod shop/web-2: c and 2 more pods"
    )


def test_a_policy_whose_pods_are_closed_for_too_many_entries_names_them_until_they_are_open_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = Node()
    node.see(VALID)
    node.look()
    assert node.sent() == ([], [])
    monkeypatch.setattr(endpoint_views, "MOST_ENTRIES", 10)
    wide = [{"fromCIDR": [f"192.0.2.{n}/32" for n in range(11)]}]
    other = {"kind": CNP.kind, "metadata": {"name": "wide", "namespace": "shop"}}
    selector = {"matchLabels": {"app": "web"}}
    node.compiler.set_document(
        {**other, "spec": {"endpointSelector": selector, "ingress": wide}}, PolicyRef(CNP.kind, "shop", "wide")
    )
    node.look()
    (((_, said),), _) = node.sent()
    assert said["message"].startswith(
        "node n1: pod shop/web-0: kept closed: its rules make 11 entries, and 10 is the most"
    )
    assert said["message"].endswith("and 2 more pods")
    node.see(VALID, said)
    node.compiler.remove_document(PolicyRef(CNP.kind, "shop", "wide"))
    node.look()
    assert node.sent() == ([[VALID]], [])


def test_nothing_is_said_of_a_pod_that_was_closed_when_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node()
    monkeypatch.setattr(endpoint_views, "MOST_ENTRIES", 0)
    spec = {"endpointSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"fromCIDR": ["192.0.2.0/24"]}]}
    document = {"kind": CNP.kind, "metadata": {"name": "one", "namespace": "shop"}, "spec": spec}
    node.compiler.set_document(document, PolicyRef(CNP.kind, "shop", "one"))
    node.compiler.step()
    assert len(node.compiler.closed_endpoints()) == 5
    with node.db.write():
        for n in range(5):
            node.db.endpoints.delete(f"10.1.0.{n}")
    node.compiler.step()
    assert node.compiler.closed_endpoints() == {}
    assert node.compiler.faults == {}
