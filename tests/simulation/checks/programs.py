# SPDX-License-Identifier: Apache-2.0
"""Programs never end by themselves, never leave an error unheard, and a map write never makes a hole."""

from __future__ import annotations

from collections.abc import Iterable

from tests.simulation.world import World


def check_programs(world: World) -> Iterable[str]:
    yield from world.loop.errors
    for _, node in world.nodes():
        for text in node.machine.broken:
            yield f"{node.name}: {text}"
