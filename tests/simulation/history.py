# SPDX-License-Identifier: Apache-2.0
"""Runs one history in a started world and says what was wrong first."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.simulation import steps
from tests.simulation.checks import always, at_rest, check_against_fresh_builds
from tests.simulation.coverage import note_programs, note_rest
from tests.simulation.loop import Digest
from tests.simulation.programs import LEASE_TTL_S
from tests.simulation.steps import Step
from tests.simulation.world import Shape, World

STARTS: Final = 8
"""How many ways there are in which a world of one shape starts; each seed has one of them."""
START_S: Final = 3.0
PAUSES_S: Final = (3.0, 2.0, 2.0, 2.0, 3.0, 3.0, *(5.0,) * 15, 60.0, 240.0)
"""At rest, programs have this long to catch up; what is still wrong after the last pause is wrong."""
LONG_REST_S: Final = 25.0
LONG_RESTS: Final = 16
"""One history in so many is looked at only after a long rest: what was right at first may not stay so."""


@dataclass(slots=True)
class Outcome:
    """`faults` are sentences, empty if all was well; `at` is the number of the step after which they were seen."""

    faults: list[str] = field(default_factory=list)
    at: int = -1
    steps: int = 0
    seconds: float = 0.0
    trace: str = ""
    reached: Counter[str] = field(default_factory=Counter)


def start_of(seed: int) -> int:
    """Which of the starts the histories of a seed begin with."""
    return seed % STARTS


def run_history(seed: int, history: Sequence[Step], shape: Shape | None = None) -> Outcome:
    """One history from an installed and connected mesh to its rest, in a world of its own."""
    with World(start_of(seed), shape or Shape()) as world:
        start(world)
        return go_on(world, seed, history)


def digest_history(seed: int, history: Sequence[Step], shape: Shape, turns: Digest) -> Outcome:
    """As `run_history`; `turns` is fed the steps, every turn of the loop, and then the state."""
    turns.update(steps.show(history).encode())
    with World(start_of(seed), shape) as world:
        world.loop.digest = turns
        start(world)
        outcome = go_on(world, seed, history)
    turns.update(outcome.trace.encode())
    return outcome


def start(world: World) -> None:
    """Programs run, have listed and have written."""
    world.run(_start(world))


def go_on(world: World, seed: int, history: Sequence[Step]) -> Outcome:
    """The history happened in a world that was started; its chance is the seed's from here on."""
    outcome = Outcome()
    world.reseed(seed)
    world.loop.reached.clear()
    try:
        world.run(_run(world, history, outcome))
    except AssertionError as exc:
        outcome.faults.append(f"{type(exc).__name__}: {exc}")
    outcome.steps, outcome.seconds, outcome.trace = world.loop.steps, world.now(), world.trace()
    outcome.reached = Counter(world.loop.reached)
    return outcome


async def _start(world: World) -> None:
    await world.begin()
    await asyncio.sleep(START_S)


async def _run(world: World, history: Sequence[Step], outcome: Outcome) -> None:
    checkers = always(world)
    for number, each in enumerate(history):
        await steps.apply(world, each)
        await asyncio.sleep(world.pauses.uniform(0.0, 0.05))
        world.look_after()
        note_programs(world)
        found = [*world.take_faults(), *(text for check in checkers for text in check(world))]
        if found:
            outcome.faults, outcome.at = found, number
            return
    world.heal()
    outcome.at = len(history)
    pauses_s = (LONG_REST_S, *PAUSES_S) if world.pauses.randrange(LONG_RESTS) == 0 else PAUSES_S
    for pause_s in pauses_s:
        await _pause(world, pause_s)
        found = [*world.take_faults(), *(text for check in checkers for text in check(world))]
        if found:
            outcome.faults = found
            return
        found = next((texts for check in at_rest() if (texts := list(check(world)))), [])
        if not found:
            break
    note_rest(world)
    outcome.faults = found or await _compare_builds(world)


async def _compare_builds(world: World) -> list[str]:
    """What a program's former life left in a store goes with its leases."""
    found = await check_against_fresh_builds(world)
    if found:
        world.loop.reached["fresh build differed until leases ended"] += 1
        for pause_s in (LEASE_TTL_S * 0.6, LEASE_TTL_S * 1.4):
            await _pause(world, pause_s)
            found = world.take_faults() + await check_against_fresh_builds(world)
            if not found:
                break
    return found


async def _pause(world: World, seconds: float) -> None:
    """Programs that ended are started again meanwhile."""
    for _ in range(5):
        await asyncio.sleep(seconds / 5)
        world.look_after()
