# SPDX-License-Identifier: Apache-2.0
"""From a history that fails to a short one that fails in the same way: steps are left out, first many at once, then each."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from tests.simulation.history import Outcome
from tests.simulation.steps import Step
from tests.simulation.world import Shape

MOST_RUNS = 400


Run = Callable[[int, Sequence[Step], Shape], Outcome]


def shrink(
    run: Run, seed: int, shape: Shape, history: Sequence[Step], faults: Sequence[str]
) -> tuple[list[Step], list[str]]:
    """The steps that are left, and what is then wrong."""
    wanted, best, found = kind_of(faults[0]), list(history), list(faults)
    runs, size = 0, max(1, len(best) // 2)
    while runs < MOST_RUNS:
        start, is_shorter = 0, False
        while start < len(best) and runs < MOST_RUNS:
            candidate = best[:start] + best[start + size :]
            outcome = run(seed, candidate, shape)
            runs += 1
            if outcome.faults and kind_of(outcome.faults[0]) == wanted:
                best, found, is_shorter = candidate, outcome.faults, True
            else:
                start += size
        if size == 1 and not is_shorter:
            break
        size = max(1, size // 2)
    return best, found


def kind_of(fault: str) -> str:
    """A fault without the names and numbers of this history."""
    return re.sub(r"\d+|north|south|east|west|default|shop|web|db|'[^']*'", "_", fault)[:60]
