# SPDX-License-Identifier: Apache-2.0
"""An agent's Lease → the pods of its node that fail their health probe. Pure. Source: coordination.k8s.io/v1; ADR 38."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from kubeintent import fields
from kubeintent.read import Obj, Read, bounded, name_of
from kubeintent.rows import HealthIntent
from meshapi.installed import FAILING_PODS, HEALTH_LEASE_PREFIX
from meshmodel.address import canonical_ip
from meshmodel.errors import ModelError
from meshmodel.names import ServiceName

MAXIMUM: Final = 1_000


def read_health(obj: Obj) -> Read[HealthIntent]:
    """What the agent of one node says; a Lease of another name is absent. Raises: UnreadableError.

    What cannot be read says that nothing fails: no backend is lost to a report that nobody understands.
    """
    name = name_of(obj)
    node = name.name.removeprefix(HEALTH_LEASE_PREFIX)
    if node == name.name or not node:
        return Read(None)
    problems: list[str] = []
    annotations = dict(fields.pairs(obj["metadata"], "annotations", problems))
    row = HealthIntent(node, _failing(annotations.get(FAILING_PODS, "{}"), problems))
    return Read(row, bounded(problems), name.uid)


def _failing(text: str, problems: list[str]) -> tuple[tuple[ServiceName, tuple[str, ...]], ...]:
    try:
        listed: Any = msgspec.json.decode(text, type=dict[str, list[str]])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        problems.append(f"{FAILING_PODS} is not a JSON object of lists of addresses")
        return ()
    if sum(map(len, listed.values())) > MAXIMUM:
        problems.append(f"{FAILING_PODS} has more than {MAXIMUM} addresses")
        return ()
    found: dict[ServiceName, tuple[str, ...]] = {}
    for name, addresses in sorted(listed.items()):
        try:
            found[ServiceName.parse(name)] = tuple(sorted({canonical_ip(each) for each in addresses}))
        except (ModelError, ValueError) as exc:
            problems.append(f"{FAILING_PODS}: {fields.shown(name)}: {exc}")
    return tuple(found.items())
