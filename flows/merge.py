# SPDX-License-Identifier: Apache-2.0
"""Several streams as one in the order of time, as far as waiting for the slowest of them is worth it. Pure.

Each source is in order, or nearly. An item is passed on when nothing earlier can come: every open source has something
that waits. Nobody waits for ever: an item that has waited `patience_s` is passed on, and a source that was waited for in
vain is not waited for again before it says something. Clocks that differ change where items stand, never whether they come.
"""

from __future__ import annotations

import heapq
from typing import Final, Generic, TypeVar

T = TypeVar("T")
PATIENCE_S: Final = 1.0
MOST_OF_ONE: Final = 100
"""Items of one source that wait; it is to be read no further meanwhile."""


class _Source:
    def __init__(self) -> None:
        self.waiting = 0
        self.is_late = False
        self.last_ns = 0


class Merge(Generic[T]):
    """`is_live`: sources may say nothing for long, so one that is full is not kept back for the sake of those."""

    def __init__(self, *, is_live: bool, patience_s: float = PATIENCE_S, most: int = MOST_OF_ONE) -> None:
        self._is_live, self._patience_s, self._most = is_live, patience_s, most
        self._sources: dict[str, _Source] = {}
        self._heap: list[tuple[int, int, str, float, T]] = []
        self._count = 0

    def open(self, name: str) -> None:
        """It may say something from now on."""
        self._sources.setdefault(name, _Source())

    def close(self, name: str) -> None:
        """It says nothing more; what waits of it is still passed on."""
        self._sources.pop(name, None)

    def has_room(self, name: str) -> bool:
        """One more item of this source may be added."""
        source = self._sources.get(name)
        return source is not None and source.waiting < self._most

    def add(self, name: str, time_ns: int, item: T, now_s: float, wall_ns: int) -> None:
        """A source said this. It stays behind what the source said before, and is not later than our own wall clock says."""
        source = self._sources[name]
        source.last_ns = max(source.last_ns, min(time_ns, wall_ns))
        source.waiting += 1
        source.is_late = False
        self._count += 1
        heapq.heappush(self._heap, (source.last_ns, self._count, name, now_s, item))

    def take(self, now_s: float) -> list[T]:
        """What may be passed on now, in order."""
        found: list[T] = []
        while self._heap and self._may_pass(now_s):
            _, _, name, _, item = heapq.heappop(self._heap)
            if source := self._sources.get(name):
                source.waiting -= 1
            found.append(item)
        return found

    def due_s(self) -> float | None:
        """When `take` finds something though nothing is added; None: not before something is."""
        return self._heap[0][3] + self._patience_s if self._heap else None

    @property
    def is_empty(self) -> bool:
        """Nothing waits."""
        return not self._heap

    def _may_pass(self, now_s: float) -> bool:
        silent = [source for source in self._sources.values() if not source.waiting and not source.is_late]
        if not silent:
            return True
        if now_s - self._heap[0][3] >= self._patience_s:
            for source in silent:
                source.is_late = True
            return True
        return self._is_live and self._is_full()

    def _is_full(self) -> bool:
        return any(source.waiting >= self._most for source in self._sources.values())
