# SPDX-License-Identifier: Apache-2.0
"""Whether the node's pods open more flows that get no answer than the map of opening flows holds. Pure.

Such flows evict each other only. That begins to matter when their table turns over while a handshake is under way.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

WINDOW_S: Final = 10.0
SHARE: Final = 0.8  # an LRU of the kernel begins to evict somewhat below its size


class _Sample(NamedTuple):
    now_s: float
    waiting: int


class HalfOpen:
    """Counters of flows opened and established, over the last WINDOW_S seconds. `size` is the table's."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._samples: deque[_Sample] = deque()

    def note(self, now_s: float, opened: int, established: int) -> None:
        """Take one reading of the two counters, which only grow."""
        self._samples.append(_Sample(now_s, opened - established))
        while len(self._samples) > 1 and self._samples[1].now_s <= now_s - WINDOW_S:
            self._samples.popleft()

    @property
    def recent(self) -> int:
        """Flows opened and not established lately."""
        return self._samples[-1].waiting - self._samples[0].waiting if self._samples else 0

    def describe(self) -> str:
        """One sentence, or "" while the table has room."""
        if self.recent < SHARE * self._size:
            return ""
        return (
            f"{self.recent} flows were opened and not answered within {WINDOW_S:g} s, the table holds {self._size}: "
            "new connections may be lost, established ones are kept; flows_total says in which direction"
        )
