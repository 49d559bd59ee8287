# SPDX-License-Identifier: Apache-2.0
"""The condition `Valid` of a policy object: whether it has to be written, and as what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from agent.tables import PolicyRow
from kube.resource import CCNP, CLUSTER_NETWORK_POLICIES, CNP, KubeObject, Resource

TYPE: Final = "Valid"
WITH_CONDITIONS: Final = (CNP, CCNP, CLUSTER_NETWORK_POLICIES)
"""The kinds whose objects have conditions."""
_WELL: Final = "Policy validation succeeded"
_REASONS: Final[Mapping[str, str]] = {"True": "PolicyValid", "False": "InvalidPolicy"}


def conditions_with(
    resource: Resource, document: KubeObject, row: PolicyRow, text: str, wall_s: float
) -> list[dict[str, Any]] | None:
    """All conditions of the object with ours among them; None if it says already what we have to say.

    A ClusterNetworkPolicy has Kubernetes' own form of conditions, which also says why and since when.
    """
    known = document["status"]["conditions"]
    wanted: dict[str, Any] = {"type": TYPE, "status": "True" if row.is_valid else "False", "message": text or _WELL}
    own = [condition for condition in known if condition.get("type") == TYPE]
    if any((c.get("status"), c.get("message", "")) == (wanted["status"], wanted["message"]) for c in own):
        return None
    others = (condition for condition in known if condition.get("type") != TYPE)
    return [*others, dated(resource, wanted, own, _REASONS[wanted["status"]], wall_s)]


def dated(
    resource: Resource, wanted: dict[str, Any], own: Sequence[Mapping[str, Any]], reason: str, wall_s: float
) -> dict[str, Any]:
    """The condition as its kind of object has it; `own` is what it said before."""
    if resource != CLUSTER_NETWORK_POLICIES:
        return wanted
    since = next((c.get("lastTransitionTime") for c in own if c.get("status") == wanted["status"]), None)
    now = datetime.fromtimestamp(wall_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return wanted | {"reason": reason, "lastTransitionTime": since or now}
