# SPDX-License-Identifier: Apache-2.0
"""What the agent says back about a policy object: once for each thing there is to say, on the object and as an Event."""

from __future__ import annotations

from typing import Any
from unittest.mock import create_autospec

from agent.policy.compiler import PolicyCompiler
from agent.policy.source import REASON_INVALID, REASON_PARTLY, PolicySource, Report, strip_policy
from agent.tables import AgentDB, PolicyRow
from kube.client import KubeClient
from kube.reflector import Delete, Synced, Upsert
from kube.resource import CIDR_GROUPS, CNP, NETWORK_POLICIES, KubeObject, Resource
from meshkit.clock import ManualClock
from meshmodel.names import ClusterId, ClusterName
from meshpolicy.context import PolicyContext
from meshpolicy.range_shares import LIMITS, ShareLimits

NORTH = ClusterName("north")
FINE = "Policy validation succeeded"
OPEN: dict[str, Any] = {"endpointSelector": {}, "ingress": [{}]}
WRONG: dict[str, Any] = {"endpointSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}, "ingress": [{}]}
PARTLY: dict[str, Any] = {"endpointSelector": {}, "ingress": [{"fromGroups": [{"aws": {}}]}]}


def policy(spec: dict[str, Any], *, kind: Resource = CNP, conditions: list[dict[str, str]] | None = None) -> KubeObject:
    document = {
        "apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": "p", "namespace": "shop"}, "spec": spec,
        "status": {"conditions": conditions or []},
    }  # fmt: skip
    return strip_policy(document)


class Reports:
    """A source whose client writes down conditions and Events."""

    def __init__(self, limits: ShareLimits = LIMITS) -> None:
        self.client = create_autospec(KubeClient, instance=True)
        self.changes = self.synced = 0
        self.db = AgentDB(NORTH, ClusterId(1))
        self.compiler = PolicyCompiler(self.db, PolicyContext(NORTH), lambda _prefixes: None, range_limits=limits)
        self.source = PolicySource(self.client, self.compiler, self._changed, ManualClock())

    def _changed(self) -> None:
        self.changes += 1

    def take(self, *batch: object, kind: Resource = CNP) -> None:
        def listed() -> None:
            self.synced += 1

        self.source.take(kind, batch, listed)  # type: ignore[arg-type]

    def sent(self, document: KubeObject, kind: Resource = CNP) -> tuple[list[tuple[str, str]], int]:
        """The conditions written for this document, and the Events."""
        self.client.reset_mock()
        self.take(Upsert("shop/p", document), kind=kind)
        return self.written()

    def said_again(self) -> tuple[list[tuple[str, str]], int]:
        """The same for every row that there is."""
        self.client.reset_mock()
        self.source.say_again(list(self.db.policies.rows()))
        return self.written()

    def written(self) -> tuple[list[tuple[str, str]], int]:
        """Of all that waits to be told."""
        while not self.source._reports.empty():
            self.source._send(self.source._reports.get_nowait())
        bodies = [call.args[2] for call in self.client.patch_status.call_args_list]
        valid = [(c["status"], c["message"]) for body in bodies for c in body["conditions"] if c["type"] == "Valid"]
        return valid, self.client.create.call_count


def test_a_policy_in_force_is_said_to_be_valid_once_and_no_event_complains() -> None:
    reports = Reports()
    assert reports.sent(policy(OPEN)) == ([("True", FINE)], 0)
    assert reports.sent(policy(OPEN)) == ([], 0)


def test_what_the_object_says_already_is_not_written_again_and_other_conditions_stay() -> None:
    reports = Reports()
    ready = {"type": "Ready", "status": "True"}
    assert reports.sent(policy(OPEN, conditions=[ready, {"type": "Valid", "status": "True", "message": FINE}])) == (
        [],
        0,
    )
    reports = Reports()
    said, _ = reports.sent(policy(OPEN, conditions=[ready, {"type": "Valid", "status": "False", "message": FINE}]))
    assert said == [("True", FINE)]
    (call,) = reports.client.patch_status.call_args_list
    assert call.args[2]["conditions"][0] == ready
    assert call.args[3] == "shop"


def test_a_refused_policy_says_why_on_itself_and_in_an_event_and_again_after_it_was_mended() -> None:
    reports = Reports()
    ((status, why),), events = reports.sent(policy(WRONG))
    assert (status, events) == ("False", 1)
    assert "Near" in why
    assert reports.client.create.call_args.args[1]["reason"] == REASON_INVALID
    assert reports.sent(policy(OPEN)) == ([("True", FINE)], 0)
    assert reports.sent(policy(WRONG)) == ([("False", f"{why}; the last valid form stays in force")], 1)


def test_a_policy_that_is_enforced_in_part_is_valid_and_an_event_says_what_is_not() -> None:
    reports = Reports()
    ((status, why),), events = reports.sent(policy(PARTLY))
    assert (status, events) == ("True", 1)
    assert why != FINE
    assert reports.client.create.call_args.args[1]["reason"] == REASON_PARTLY


def test_an_object_without_conditions_hears_of_faults_only() -> None:
    reports = Reports()
    plain = {"podSelector": {}, "ingress": [{}]}
    assert reports.sent(policy(plain, kind=NETWORK_POLICIES), NETWORK_POLICIES) == ([], 0)
    broken = {"podSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}
    assert reports.sent(policy(broken, kind=NETWORK_POLICIES), NETWORK_POLICIES) == ([], 1)


def test_a_policy_made_again_under_its_name_is_reported_anew_and_whoever_waits_for_the_listing_is_told() -> None:
    reports = Reports()
    reports.sent(policy(OPEN))
    reports.take(Delete("shop/p", policy(OPEN)))
    assert not list(reports.db.policies.rows())
    assert reports.sent(policy(OPEN)) == ([("True", FINE)], 0)
    assert (reports.changes, reports.synced) == (3, 0)
    reports.take(Synced())
    assert (reports.changes, reports.synced) == (4, 1)


def test_a_group_that_gets_other_labels_is_meant_by_other_policies() -> None:
    """Its addresses stay as they were, so that only the labels of the object tell."""
    reports = Reports()
    partners = {"cidrGroupSelector": {"matchLabels": {"of": "partners"}}}
    reports.take(Upsert("shop/p", policy({"endpointSelector": {}, "ingress": [{"fromCIDRSet": [partners]}]})))

    def label(value: str) -> set[str]:
        group = policy({"externalCIDRs": ["192.0.2.0/24"]}, kind=CIDR_GROUPS)
        group["metadata"] = {"name": "g", "labels": {"of": value}}
        reports.take(Upsert("g", group), kind=CIDR_GROUPS)
        return set(reports.compiler.engine.prefixes())

    assert label("partners") == {"192.0.2.0/24"}
    assert label("nobody") == set()
    assert label("partners") == {"192.0.2.0/24"}


def test_reports_that_find_no_room_are_made_when_the_object_changes_again() -> None:
    reports = Reports()
    while not reports.source._reports.full():
        reports.source._reports.put_nowait(Report(NETWORK_POLICIES, policy(OPEN), PolicyRow("", "", "", True)))
    reports.take(Upsert("shop/p", policy(OPEN)))
    while not reports.source._reports.empty():
        reports.source._reports.get_nowait()
    assert reports.sent(policy({**OPEN, "description": "changed"})) == ([("True", FINE)], 0)


def test_reports_that_found_no_room_are_made_when_there_is_some() -> None:
    reports = Reports()
    while not reports.source._reports.full():
        reports.source._reports.put_nowait(Report(NETWORK_POLICIES, policy(OPEN), PolicyRow("", "", "", True)))
    reports.take(Upsert("shop/p", policy(OPEN)))
    assert reports.source.is_behind
    while not reports.source._reports.empty():
        reports.source._reports.get_nowait()
    assert reports.said_again() == ([("True", FINE)], 0)
    assert not reports.source.is_behind
    assert reports.said_again() == ([], 0)


def test_a_policy_that_is_closed_because_of_another_one_says_so_until_it_is_not() -> None:
    reports = Reports(ShareLimits(of_namespace=2))
    ranges: dict[str, Any] = {"endpointSelector": {}, "ingress": [{"fromCIDR": ["192.0.2.0/25", "192.0.2.128/25"]}]}
    assert reports.sent(policy(ranges)) == ([("True", FINE)], 0)
    other = policy({"endpointSelector": {}, "ingress": [{"fromCIDR": ["198.51.100.0/24"]}]})
    other["metadata"]["name"] = "q"
    reports.take(Upsert("shop/q", other))
    reports.written()
    ((status, why),), events = reports.said_again()
    assert (status, events) == ("False", 1)
    assert why.startswith("kept closed: it names 2 address ranges")
    reports.take(Delete("shop/q", other))
    assert reports.said_again() == ([("True", FINE)], 0)


def test_an_object_without_conditions_is_complained_of_again_after_it_was_mended() -> None:
    reports = Reports()
    broken = {"podSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}
    reports.take(Upsert("shop/p", policy({"podSelector": {}}, kind=NETWORK_POLICIES)), kind=NETWORK_POLICIES)
    assert reports.sent(policy(broken, kind=NETWORK_POLICIES), NETWORK_POLICIES) == ([], 1)
    assert reports.sent(policy({"podSelector": {}}, kind=NETWORK_POLICIES), NETWORK_POLICIES) == ([], 0)
    assert reports.sent(policy(broken, kind=NETWORK_POLICIES), NETWORK_POLICIES) == ([], 1)
