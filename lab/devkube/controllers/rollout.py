# SPDX-License-Identifier: Apache-2.0
"""How far each ReplicaSet of a Deployment may move at once, so that the rollout keeps its promises. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lab.devkube.api.objects import Obj, part


@dataclass(frozen=True, slots=True)
class Generation:
    """One ReplicaSet as the plan needs it."""

    name: str
    replicas: int
    ready: int


def absolute(value: int | str, total: int, *, up: bool) -> int:
    """A number, or a percentage of the total rounded up or down."""
    if isinstance(value, str) and value.endswith("%"):
        share = total * int(value[:-1]) / 100
        return math.ceil(share) if up else math.floor(share)
    return int(value)


def limits(deployment: Obj) -> tuple[int, int]:
    """How many pods there may be at most, and how many must be ready at least, during a rolling update."""
    wanted = int(deployment["spec"]["replicas"])
    rolling = part(part(deployment["spec"], "strategy"), "rollingUpdate")
    surge = absolute(rolling.get("maxSurge", "25%"), wanted, up=True)
    missing = absolute(rolling.get("maxUnavailable", "25%"), wanted, up=False)
    if not surge and not missing:
        missing = 1
    return wanted + surge, max(0, wanted - missing)


def plan_rollout(
    wanted: int, at_most: int, ready_at_least: int, current: Generation, old: Sequence[Generation], *, recreate: bool
) -> dict[str, int]:
    """The number of replicas each ReplicaSet should have next."""
    plan = {generation.name: generation.replicas for generation in old}
    if recreate:
        plan = dict.fromkeys(plan, 0)
        busy = any(generation.replicas for generation in old)
        return plan | {current.name: current.replicas if busy else wanted}
    total = current.replicas + sum(plan.values())
    room = max(0, at_most - total)
    plan[current.name] = min(wanted, current.replicas + room) if current.replicas < wanted else wanted
    spare = current.ready + sum(generation.ready for generation in old) - ready_at_least
    for generation in old:
        # pods that are not ready serve nobody: they go first and cost nothing
        idle = generation.replicas - min(generation.ready, generation.replicas)
        step = idle + max(0, min(spare, generation.replicas - idle))
        spare -= step - idle
        plan[generation.name] = generation.replicas - step
    return plan
