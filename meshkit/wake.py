# SPDX-License-Identifier: Apache-2.0
"""A bell that any number of tasks can wait for. Rings are counted, so none is lost between looking and waiting."""

from __future__ import annotations

import asyncio

from meshkit.clock import Clock


class Wake:
    """`count` is the number of rings so far. Must be rung and awaited on one event loop."""

    def __init__(self) -> None:
        self.count = 0
        self._waiters: dict[asyncio.Future[None], None] = {}

    def set(self) -> None:
        """Everybody waiting goes on, in the order in which they came."""
        self.count += 1
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, seen: int | None = None) -> int:
        """Return the count once it is beyond `seen` (default: the count at the time of the call)."""
        after = self.count if seen is None else seen
        while self.count <= after:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters[waiter] = None
            try:
                await waiter
            finally:
                self._waiters.pop(waiter, None)
        return self.count


async def wait_for_ring(wake: Wake, seen: int, delay_s: float | None, clock: Clock) -> bool:
    """True when the bell rang beyond `seen`, False when `delay_s` passed first (None: wait for ever)."""
    if wake.count > seen:
        return True
    if delay_s is None:
        await wake.wait(seen)
        return True
    ring: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end() -> None:
        if not ring.done():
            ring.set_result(None)

    wake._waiters[ring] = None
    timer = clock.call_later(delay_s, end)
    try:
        await ring
    finally:
        wake._waiters.pop(ring, None)
        timer.cancel()
    return wake.count > seen
