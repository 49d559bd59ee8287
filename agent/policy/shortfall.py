# SPDX-License-Identifier: Apache-2.0
"""Policies that are not enforced as written for a pod here, because its map or its interface does not take them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from agent.policy.condition import dated
from agent.tables import THE_NODE, AgentDB
from kube.resource import KubeObject, Resource
from meshmodel.identity import NumericIdentity
from meshpolicy import Engine, PolicyRef

ENFORCED: Final = "Enforced"
"""The condition that a policy object has while a node enforces it in part; one line of its message for each such node."""
_NAMED_PODS: Final = 3


def with_limits(failures: Mapping[str, str], limits: Sequence[str]) -> dict[str, str]:
    """The failures, and those of the node with what its host policies do not reach."""
    said = [text for text in (failures.get(THE_NODE.address, ""), *limits) if text]
    return {**failures, **({THE_NODE.address: "; ".join(said)} if said else {})}


def find_shortfalls(db: AgentDB, engine: Engine, failures: Mapping[str, str]) -> dict[PolicyRef, str]:
    """For each policy of a pod that failed (`failures` by address): the pods, and why."""
    pods: dict[PolicyRef, list[str]] = {}
    for address, reason in sorted(failures.items()):
        endpoint = THE_NODE if address == THE_NODE.address else db.endpoints.get(address)
        if endpoint is None:
            continue
        rules = engine.rules_of(NumericIdentity(endpoint.identity))
        for ref in dict.fromkeys(rule.origin.policy for rule in rules):
            who = "the node" if endpoint is THE_NODE else f"pod {endpoint.namespace}/{endpoint.pod}"
            pods.setdefault(ref, []).append(f"{who}: {reason}")
    return {ref: _text(found) for ref, found in pods.items()}


def _text(found: list[str]) -> str:
    more = f" and {len(found) - _NAMED_PODS} more pods" if len(found) > _NAMED_PODS else ""
    return "; ".join(found[:_NAMED_PODS]) + more


def with_shortfall(
    resource: Resource, document: KubeObject, node: str, text: str, wall_s: float
) -> list[dict[str, Any]] | None:
    """All conditions of the object with what this node has to say ("": nothing); None if they say so already.

    What other nodes say of the object stays. The condition is gone when no node says anything.
    """
    known = document["status"]["conditions"]
    own = [condition for condition in known if condition.get("type") == ENFORCED]
    head = f"node {node}: "
    before = [line for condition in own for line in str(condition.get("message", "")).split("\n") if line]
    lines = sorted([*(line for line in before if not line.startswith(head)), *([head + text] if text else [])])
    if lines == before:
        return None
    others = [condition for condition in known if condition.get("type") != ENFORCED]
    if not lines:
        return others
    wanted = {"type": ENFORCED, "status": "False", "message": "\n".join(lines)}
    return [*others, dated(resource, wanted, own, "PolicyTruncated", wall_s)]
