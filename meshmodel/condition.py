# SPDX-License-Identifier: Apache-2.0
"""What the conditions of an endpoint mean for connections. Pure. Source: discovery/v1; an absent serving is as ready."""

from __future__ import annotations

from enum import StrEnum


class Condition(StrEnum):
    """What Kubernetes said of a backend: may it take new connections, or only keep the old ones."""

    ACTIVE = "active"
    TERMINATING = "terminating"


def condition_of(*, ready: bool | None, serving: bool | None, terminating: bool | None) -> Condition | None:
    """Active when ready, terminating while it still serves, None otherwise. None of a condition means that nobody said.

    One that ends and is said to be ready all the same is active: its Service has publishNotReadyAddresses.
    """
    if ready or (ready is None and not terminating):
        return Condition.ACTIVE
    is_serving = serving if serving is not None else ready is not False
    return Condition.TERMINATING if terminating and is_serving else None
