# SPDX-License-Identifier: Apache-2.0
"""What an agent writes into the conditions of a policy object, and when it leaves them alone."""

from __future__ import annotations

from typing import Any

from agent.policy.condition import conditions_with
from agent.tables import PolicyRow
from kube.resource import CLUSTER_NETWORK_POLICIES, CNP

NOW = 1_800_000_000.0
READY = {"type": "Ready", "status": "True"}


def document(*conditions: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "status": {"conditions": list(conditions)}}


def row(*, is_valid: bool = True) -> PolicyRow:
    return PolicyRow("ClusterNetworkPolicy", "", "p", is_valid=is_valid, message="" if is_valid else "wrong")


def test_conditions_of_others_stay() -> None:
    found = conditions_with(CNP, document(READY), row(), "", NOW)
    assert found == [READY, {"type": "Valid", "status": "True", "message": "Policy validation succeeded"}]


def test_what_is_said_already_is_not_written_again() -> None:
    said = conditions_with(CLUSTER_NETWORK_POLICIES, document(), row(is_valid=False), "wrong", NOW)
    assert said is not None
    assert conditions_with(CLUSTER_NETWORK_POLICIES, document(*said), row(is_valid=False), "wrong", NOW + 60) is None


def test_kubernetes_form_says_why_and_since_when() -> None:
    """The schema of the kind requires all of it; the time is that of the last change of status, not of the message."""
    first = conditions_with(CLUSTER_NETWORK_POLICIES, document(), row(is_valid=False), "wrong", NOW)
    assert first == [
        {
            "type": "Valid",
            "status": "False",
            "message": "wrong",
            "reason": "InvalidPolicy",
            "lastTransitionTime": "2027-01-15T08:00:00Z",
        }
    ]
    worse = conditions_with(CLUSTER_NETWORK_POLICIES, document(*first), row(is_valid=False), "worse", NOW + 60)
    assert worse is not None
    assert worse[0]["lastTransitionTime"] == "2027-01-15T08:00:00Z"
    well = conditions_with(CLUSTER_NETWORK_POLICIES, document(*worse), row(), "", NOW + 60)
    assert well is not None
    assert (well[0]["reason"], well[0]["lastTransitionTime"]) == ("PolicyValid", "2027-01-15T08:01:00Z")
