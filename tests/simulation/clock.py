# SPDX-License-Identifier: Apache-2.0
"""A process's clock: the loop's time, and a wall clock that may be wrong."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

from tests.simulation.loop import SimulatedFlag, SimulatedLoop

EPOCH_S: Final = 1_800_000_000.0


class ProcessClock:
    """`wall_error_s` is how far the node's wall clock is off; monotonic time is right everywhere."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self.wall_error_s = 0.0

    def monotonic(self) -> float:
        return self._loop.time()

    def wall(self) -> float:
        return EPOCH_S + self._loop.time() + self.wall_error_s

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(max(0.0, delay_s))


class SimulatedBlocking:
    """`kube.blocking.Blocking` on the loop."""

    def __init__(self, loop: SimulatedLoop, rng: random.Random) -> None:
        self._loop, self.rng = loop, rng

    def monotonic(self) -> float:
        return self._loop.time()

    def make_flag(self) -> SimulatedFlag:
        return SimulatedFlag(self._loop)

    def start(self, run: Callable[[], None], name: str) -> None:
        self._loop.start_caller(run)
