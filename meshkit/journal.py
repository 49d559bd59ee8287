# SPDX-License-Identifier: Apache-2.0
"""The newest entries of something, bounded by count and by bytes, for those who ask later and those who follow."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from itertools import islice
from typing import Final, Generic, TypeVar

from meshkit.wake import Wake

ENTRIES: Final = 2_000
BYTES: Final = 1 << 20
_T = TypeVar("_T")


class Journal(Generic[_T]):
    """`size_of` says how many bytes an entry counts for. What falls out is forgotten, the oldest first."""

    def __init__(self, size_of: Callable[[_T], int], *, entries: int = ENTRIES, size_bytes: int = BYTES) -> None:
        self._size_of, self._entries, self._bound_bytes = size_of, entries, size_bytes
        self._kept: deque[tuple[_T, int]] = deque()
        self._wake = Wake()
        self.size_bytes = 0
        self.count = 0
        """How many there have been since the start."""

    def __len__(self) -> int:
        return len(self._kept)

    def extend(self, entries: Iterable[_T]) -> None:
        """They are the newest now. One that is larger than all the room is not kept."""
        before = self.count
        for entry in entries:
            size = self._size_of(entry)
            self._kept.append((entry, size))
            self.size_bytes += size
            self.count += 1
            while len(self._kept) > self._entries or self.size_bytes > self._bound_bytes:
                self.size_bytes -= self._kept.popleft()[1]
        if self.count != before:
            self._wake.set()

    def last(self, limit: int, keep: Callable[[_T], bool]) -> list[_T]:
        """The newest that pass, `limit` at most, the oldest of them first; filters apply before counting."""
        found = list(islice((entry for entry, _ in reversed(self._kept) if keep(entry)), limit))
        return found[::-1]

    def follow(self, keep: Callable[[_T], bool]) -> AsyncIterator[_T]:
        """Every entry from this call on that passes; one that falls out before it is read is lost."""
        return self._follow(keep, self.count)

    async def _follow(self, keep: Callable[[_T], bool], position: int) -> AsyncIterator[_T]:
        while True:
            rung = self._wake.count
            if self.count == position:
                await self._wake.wait(rung)
            missing = min(self.count - position, len(self._kept))
            fresh = [entry for entry, _ in islice(self._kept, len(self._kept) - missing, None)]
            position = self.count
            for entry in fresh:
                if keep(entry):
                    yield entry
