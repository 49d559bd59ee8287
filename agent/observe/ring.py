# SPDX-License-Identifier: Apache-2.0
"""The last flows of this node, for those who ask later and those who follow."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from itertools import islice

from agent.observe.flow import Flow
from meshkit.wake import Wake

CAPACITY = 4095

Filter = Callable[[Flow], bool]


class FlowRing:
    """The newest `capacity` flows in the order they were seen, each with a number that never repeats."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._flows: deque[Flow] = deque(maxlen=capacity)
        self._seen = 0
        self._wake = Wake()

    def __len__(self) -> int:
        return len(self._flows)

    @property
    def seen(self) -> int:
        """How many flows there have been since the start."""
        return self._seen

    @property
    def capacity(self) -> int:
        return self._flows.maxlen or 0

    def extend(self, flows: Iterable[Flow]) -> None:
        before = self._seen
        for flow in flows:
            self._flows.append(flow)
            self._seen += 1
        if self._seen != before:
            self._wake.set()

    def last(self, number: int, keep: Filter) -> list[Flow]:
        """The last `number` flows that pass, oldest first; filters apply before counting."""
        found = list(islice((flow for flow in reversed(self._flows) if keep(flow)), number))
        return found[::-1]

    def follow(self, keep: Filter) -> AsyncIterator[Flow]:
        """Every flow after this call that passes; one that falls out of the ring before it is read is lost."""
        return self._from(self._seen, keep)

    async def _from(self, position: int, keep: Filter) -> AsyncIterator[Flow]:
        while True:
            rung = self._wake.count
            if self._seen == position:
                await self._wake.wait(rung)
            missing = min(self._seen - position, len(self._flows))
            fresh = list(islice(self._flows, len(self._flows) - missing, None))
            position = self._seen
            for flow in fresh:
                if keep(flow):
                    yield flow
