# SPDX-License-Identifier: Apache-2.0
"""An agent's Lease → the pods it confirms. Pure. Source: coordination.k8s.io/v1; docs/adr (announcing pods)."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec

from kubeintent import fields
from kubeintent.health import read_health
from kubeintent.read import Obj, Read, bounded, name_of
from kubeintent.rows import ConfirmationIntent, HealthIntent
from meshapi.installed import CONFIRMED_PODS, LEASE_PREFIX
from meshmodel.address import canonical_ip

AgentWord: TypeAlias = ConfirmationIntent | HealthIntent


MAXIMUM_PODS: Final = 10_000


def read_agent_lease(obj: Obj) -> Read[AgentWord]:
    """What an agent says in either of its Leases. Raises: UnreadableError."""
    found = read_confirmation(obj)
    if found.row is not None:
        return Read(found.row, found.problems, found.uid)
    other = read_health(obj)
    return Read(other.row, other.problems, other.uid)


def read_confirmation(obj: Obj) -> Read[ConfirmationIntent]:
    """What the agent of one node says; a Lease of another name is absent. Raises: UnreadableError.

    The node is the one in the name of the Lease, so that no two Leases can confirm for one node.
    """
    name = name_of(obj)
    node = name.name.removeprefix(LEASE_PREFIX)
    if node == name.name or not node:
        return Read(None)
    problems: list[str] = []
    meta = obj["metadata"]
    annotations = dict(fields.pairs(meta, "annotations", problems))
    row = ConfirmationIntent(
        node=node,
        pods=_pods(annotations.get(CONFIRMED_PODS, "{}"), problems),
        created=fields.text(meta, "creationTimestamp", problems),
        renewed=fields.text(fields.mapping(obj, "spec", problems), "renewTime", problems),
    )
    return Read(row, bounded(problems), name.uid)


def _pods(text: str, problems: list[str]) -> dict[str, str]:
    try:
        listed: Any = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        listed = None
    if not isinstance(listed, dict) or len(listed) > MAXIMUM_PODS:
        problems.append(f"{CONFIRMED_PODS} is not a JSON object of at most {MAXIMUM_PODS} addresses")
        return {}
    found: dict[str, str] = {}
    for address, owner in listed.items():
        try:
            found[canonical_ip(address)] = owner if isinstance(owner, str) else ""
        except ValueError:
            problems.append(f"{CONFIRMED_PODS}: {fields.shown(address)} is no address")
    return found
