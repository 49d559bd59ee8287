# SPDX-License-Identifier: Apache-2.0
"""How long to wait before trying again: doubling, bounded, and never in step with the neighbours."""

from __future__ import annotations

import random


class Backoff:
    """Delays that double from `minimum_s` to `maximum_s`, each multiplied by a random factor of 0.5 to 1."""

    def __init__(self, minimum_s: float, maximum_s: float, rng: random.Random | None = None) -> None:
        if not 0 < minimum_s <= maximum_s:
            raise ValueError(f"back-off from {minimum_s} s to {maximum_s} s is no range")
        self.minimum_s, self.maximum_s = minimum_s, maximum_s
        self._rng = rng if rng is not None else random.Random()
        self._next_s = minimum_s

    def next(self) -> float:
        """The delay before the next attempt, in seconds."""
        delay_s = self._next_s
        self._next_s = min(self.maximum_s, delay_s * 2)
        return delay_s * self._rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        """The last attempt was good: the next failure waits the minimum again."""
        self._next_s = self.minimum_s
