# SPDX-License-Identifier: Apache-2.0
"""Runs one history in a new world and says what was wrong first."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.simulation import steps
from tests.simulation.checks import always, at_rest, check_against_fresh_builds
from tests.simulation.programs import LEASE_TTL_S
from tests.simulation.steps import Step
from tests.simulation.world import Shape, World

START_S: Final = 3.0
PAUSES_S: Final = (25.0, 60.0, 240.0)
"""At rest, programs have this long to catch up; what is still wrong after the last pause is wrong."""


@dataclass(slots=True)
class Outcome:
    """`faults` are sentences, empty if all was well; `at` is the number of the step after which they were seen."""

    faults: list[str] = field(default_factory=list)
    at: int = -1
    steps: int = 0
    seconds: float = 0.0
    trace: str = ""


def run_history(seed: int, history: Sequence[Step], shape: Shape | None = None) -> Outcome:
    """One history from an installed and connected mesh to its rest."""
    outcome = Outcome()
    with World(seed, shape or Shape()) as world:
        try:
            world.run(_run(world, history, outcome))
        except AssertionError as exc:
            outcome.faults.append(f"{type(exc).__name__}: {exc}")
        outcome.steps, outcome.seconds, outcome.trace = world.loop.steps, world.now(), world.trace()
    gc.unfreeze()
    return outcome


async def _run(world: World, history: Sequence[Step], outcome: Outcome) -> None:
    await world.begin()
    checkers = always(world)
    await asyncio.sleep(START_S)
    for number, each in enumerate(history):
        await steps.apply(world, each)
        await asyncio.sleep(world.pauses.uniform(0.0, 0.05))
        world.look_after()
        found = [*world.take_faults(), *(text for check in checkers for text in check(world))]
        if found:
            outcome.faults, outcome.at = found, number
            return
    world.heal()
    outcome.at = len(history)
    for pause_s in PAUSES_S:
        await _pause(world, pause_s)
        found = [*world.take_faults(), *(text for check in checkers for text in check(world))]
        if found:
            outcome.faults = found
            return
        found = [text for check in at_rest() for text in check(world)]
        if not found:
            break
    outcome.faults = found or await _compare_builds(world)


async def _compare_builds(world: World) -> list[str]:
    """What a program's former life left in a store goes with its leases."""
    found = await check_against_fresh_builds(world)
    if found:
        await _pause(world, LEASE_TTL_S + 60.0)
        found = world.take_faults() + await check_against_fresh_builds(world)
    return found


async def _pause(world: World, seconds: float) -> None:
    """Programs that ended are started again meanwhile."""
    for _ in range(5):
        await asyncio.sleep(seconds / 5)
        world.look_after()
