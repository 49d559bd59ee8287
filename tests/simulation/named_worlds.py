# SPDX-License-Identifier: Apache-2.0
"""Worlds by name: who acts in them, and how large they are."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from typing import Final

from tests.simulation.actors.mixture import WORLDS, Setting
from tests.simulation.world import CLUSTER_NAMES, Shape

MIXED: Final = "mixed"
MOST_NODES: Final = 4
_SIZED: Final = re.compile(r"([a-z]+)-(\d+)x(\d+)")
_SHAPES: Final = {Shape(2, 1): 16, Shape(3, 1): 2, Shape(2, 2): 2}
"""Sizes in a mixture, and how often each comes: most faults need no more than two nodes that can be told apart."""


def world_of(name: str, seed: int) -> Setting:
    """The world of one seed: `small`, or `small-3x2` for the same in three clusters of two nodes; `mixed` draws by the seed.

    Raises: ValueError for any other name, fewer than two or more than six clusters, or more than four nodes in each.
    """
    if name == MIXED:
        rng = random.Random(f"{seed} world")
        setting = WORLDS[rng.choice(sorted(WORLDS.keys() - {"large"}))]
        return replace(setting, shape=rng.choices(list(_SHAPES), list(_SHAPES.values()))[0])
    sized = _SIZED.fullmatch(name)
    base = WORLDS.get(sized[1] if sized is not None else name)
    if base is None:
        raise ValueError(
            f"no world {name!r}: {MIXED}, {', '.join(sorted(WORLDS))}, or one of these with -CLUSTERSxNODES"
        )
    if sized is None:
        return base
    clusters, nodes = int(sized[2]), int(sized[3])
    if not (2 <= clusters <= len(CLUSTER_NAMES) and 1 <= nodes <= MOST_NODES):
        raise ValueError(f"{name!r}: 2 to {len(CLUSTER_NAMES)} clusters and 1 to {MOST_NODES} nodes in each")
    return replace(base, shape=Shape(clusters, nodes))
