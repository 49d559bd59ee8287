# SPDX-License-Identifier: Apache-2.0
"""Which history is the first that finds a fault made by hand."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.simulation.actors.mixture import make_history
from tests.simulation.branches import Branch, Branches
from tests.simulation.mutants import MUTANTS
from tests.simulation.named_worlds import world_of


@dataclass(frozen=True, slots=True)
class Found:
    """`history` counts from 1, and is 0 if none of `tried` histories found it; `fault` is what was wrong first."""

    tried: int
    history: int = 0
    seed: int = 0
    fault: str = ""

    def __str__(self) -> str:
        if not self.history:
            return f"not found by {self.tried} histories"
        return f"found by history {self.history} (seed {self.seed}): {self.fault[:160]}"


def hunt(mutant: str, world: str, seeds: range, length: int) -> Found:
    """Histories of a world are run until one fails. The fault stays in this process."""
    MUTANTS[mutant]()
    with Branches() as branches:
        for tried, (branch, outcome) in enumerate(branches.run_all(drawn(world, seeds, length)), 1):
            if outcome.faults:
                return Found(tried, tried, branch.seed, outcome.faults[0])
    return Found(len(seeds))


def drawn(world: str, seeds: Iterable[int], length: int) -> Iterator[Branch]:
    """The histories of a world's seeds."""
    for seed in seeds:
        setting = world_of(world, seed)
        yield Branch(seed, make_history(seed, setting, length), setting.shape)


def apart(mutant: str, world: str, seeds: range, length: int) -> Found:
    """As `hunt`, in a process of its own, so that this one may look for other faults afterwards."""
    answer, told = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with os.fdopen(told, "wb") as pipe:
                pickle.dump(hunt(mutant, world, seeds, length), pipe)
            status = 0
        finally:
            os._exit(status)
    os.close(told)
    with os.fdopen(answer, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    if not said:
        raise RuntimeError(f"{mutant}: the process that looked for it ended without an answer")
    found = pickle.loads(said)
    assert isinstance(found, Found)
    return found
