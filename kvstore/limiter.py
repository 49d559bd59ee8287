# SPDX-License-Identifier: Apache-2.0
"""A token bucket: so much weight a second, and a burst."""

from __future__ import annotations

import math

from meshkit.clock import Clock, SystemClock


class Limiter:
    """Delays callers so that at most `rate` weight a second passes, after a first `burst`. Infinite rate: no limit."""

    def __init__(self, rate: float = math.inf, burst: float = math.inf, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or SystemClock()
        self._rate, self._burst = rate, burst
        self._tokens, self._at = burst, self._clock.monotonic()

    @property
    def rate(self) -> float:
        """Weight a second."""
        return self._rate

    async def take(self, weight: float = 1.0) -> None:
        """The caller may go on; a batch weighs as much as it holds."""
        delay_s = self.reserve(weight)
        if delay_s > 0:
            await self._clock.sleep(delay_s)

    def reserve(self, weight: float) -> float:
        """Take the weight now and say how many seconds the caller has to wait for it."""
        if math.isinf(self._rate):
            return 0.0
        self._refill()
        self._tokens -= weight
        return max(0.0, -self._tokens / self._rate)

    def _refill(self) -> None:
        now = self._clock.monotonic()
        if not math.isinf(self._rate):
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
