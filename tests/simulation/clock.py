# SPDX-License-Identifier: Apache-2.0
"""A process's clock: the loop's time, and a wall clock that may be wrong."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from typing import Any, Final

from tests.simulation.loop import SimulatedFlag, SimulatedLoop, Turn, sleep

EPOCH_S: Final = 1_800_000_000.0


class ProcessClock:
    """`wall_error_s` is how far the machine's wall clock is off, `leapt_s` how long the process did not notice time to pass."""

    def __init__(self, loop: SimulatedLoop, wall_error_s: float = 0.0) -> None:
        self._loop = loop
        self.wall_error_s, self.leapt_s = wall_error_s, 0.0

    def monotonic(self) -> float:
        return self._loop.now_s + self.leapt_s

    def wall(self) -> float:
        return EPOCH_S + self._loop.now_s + self.wall_error_s

    def sleep(self, delay_s: float) -> Coroutine[Any, Any, None]:
        return sleep(delay_s)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Turn:
        return self._loop.call_later(delay_s, callback)


class SimulatedBlocking:
    """`kube.blocking.Blocking` on the loop."""

    def __init__(self, loop: SimulatedLoop, clock: ProcessClock, rng: random.Random) -> None:
        self._loop, self._clock, self.rng = loop, clock, rng

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def make_flag(self) -> SimulatedFlag:
        return SimulatedFlag(self._loop)

    def start(self, run: Callable[[], None], name: str) -> None:
        self._loop.start_caller(run)
