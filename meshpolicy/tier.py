# SPDX-License-Identifier: Apache-2.0
"""Tiers of rules and the levels inside them: one number that says which of two rules decides first."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

MAXIMUM_PRIORITY: Final = 1000
MAXIMUM_RULES: Final = 25
"""Rules of one direction that a ClusterNetworkPolicy may have."""
_PLACES: Final = 32
"""Levels for the rules of one priority; more than MAXIMUM_RULES."""
PASSED_LEVELS: Final = 256
"""Levels that each Admin level keeps free below itself for what it passes on."""


class Tier(IntEnum):
    """The lower number is asked first. All but ClusterNetworkPolicies are in the middle one."""

    ADMIN = 0
    NORMAL = 1
    BASELINE = 2
    GUARD = 3
    """Built-in rules for a node that host policies select."""


class Level(IntEnum):
    """Layers of verdicts besides those of ordered rules; a lower number decides first.

    Admin rules lie below NORMAL, Baseline rules between UNENFORCED and DEFAULT.
    """

    GUARD = 0
    """What no policy takes from a node. Ordered rules never select nodes, so that level 0 of theirs is another's."""
    NORMAL = 1 << 23
    UNENFORCED = NORMAL + 1
    """What a rule would restrict further than this mesh can yet (HTTP, TLS names): denied unless allowed plainly."""
    DEFAULT = (1 << 24) - 1
    """What holds where no rule of any tier speaks."""


def ordered_level(tier: Tier, priority: int, place: int) -> int:
    """The level of the rule at a place (from 0) of a policy with a priority, in the Admin or the Baseline tier."""
    order = priority * _PLACES + place
    return order * PASSED_LEVELS if tier is Tier.ADMIN else Level.UNENFORCED + 1 + order
