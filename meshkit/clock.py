# SPDX-License-Identifier: Apache-2.0
"""Time as a dependency: schedules use monotonic seconds, whatever is printed on paper uses wall seconds."""

from __future__ import annotations

import heapq
import itertools
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class Clock(Protocol):
    """What a program may ask of time. `monotonic` and `wall` are never mixed."""

    def monotonic(self) -> float: ...

    def wall(self) -> float: ...

    async def sleep(self, delay_s: float) -> None: ...

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """The running loop calls `callback` once, after the delay."""
        ...


class Timer(Protocol):
    """A call that is still to come."""

    def cancel(self) -> object:
        """It does not come. Nothing happens if it came already."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    async def sleep(self, delay_s: float) -> None:
        import asyncio  # commands, which never sleep so, need the time without a loop

        await asyncio.sleep(max(0.0, delay_s))

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        import asyncio  # see `sleep`

        return asyncio.get_running_loop().call_later(delay_s, callback)


class ManualClock:
    """A clock that moves only when told to; sleepers wake in the order of their deadlines."""

    def __init__(self, monotonic: float = 0.0, wall: float = 1_800_000_000.0) -> None:
        self._now, self._wall = monotonic, wall
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def monotonic(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._wall

    async def sleep(self, delay_s: float) -> None:
        import asyncio  # commands, which never sleep so, need the time without a loop

        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        await self._sleeper(delay_s)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        import asyncio  # see `sleep`

        if delay_s <= 0:
            return asyncio.get_running_loop().call_soon(callback)

        def end(sleeper: asyncio.Future[None]) -> None:
            if not sleeper.cancelled():
                callback()

        sleeper = self._sleeper(delay_s)
        sleeper.add_done_callback(end)
        return sleeper

    def _sleeper(self, delay_s: float) -> asyncio.Future[None]:
        """Done when the clock is so far."""
        import asyncio  # see `sleep`

        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + delay_s, next(self._order), sleeper))
        return sleeper

    @property
    def next_deadline(self) -> float | None:
        """When the next sleeper is due, or None when nobody sleeps."""
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None

    def advance(self, delay_s: float) -> None:
        """Both clocks have moved on; every sleeper due by now is released (and runs once the caller awaits)."""
        self._now += delay_s
        self._wall += delay_s
        while self._sleepers and self._sleepers[0][0] <= self._now:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)

    async def run_for(self, delay_s: float, *, turns: int = 20) -> None:
        """Let `delay_s` pass deadline by deadline, giving the tasks woken at each one `turns` turns of the loop."""
        end = self._now + delay_s
        await settle(turns)
        while (due := self.next_deadline) is not None and due <= end:
            self.advance(max(0.0, due - self._now))
            await settle(turns)
        self.advance(end - self._now)
        await settle(turns)


async def settle(turns: int = 20) -> None:
    """Every task that could run without waiting for the outside has had `turns` turns."""
    import asyncio

    for _ in range(turns):
        await asyncio.sleep(0)
