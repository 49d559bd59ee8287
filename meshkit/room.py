# SPDX-License-Identifier: Apache-2.0
"""Which of the rows that found no room is tried next, and when. Pure.

A full target costs one attempt per back-off interval, however many rows wait: the one that waited longest. While attempts
succeed, twice as many are made at once. What made room is not asked: any success elsewhere is a reason to try one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from meshkit.backoff import Backoff

K = TypeVar("K", bound=Hashable)


class RoomQueue(Generic[K]):
    """Keys in the order in which they came to wait. `due_at` is in monotonic seconds, None while nobody waits."""

    def __init__(self, new_backoff: Callable[[], Backoff]) -> None:
        self._new_backoff, self._backoff = new_backoff, new_backoff()
        self._waiting: dict[K, None] = {}
        self._size = 1
        self.due_at: float | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, key: K) -> bool:
        return key in self._waiting

    def put(self, key: K, now: float) -> None:
        """There was no room for this key: it waits behind all others."""
        self._waiting.pop(key, None)
        self._waiting[key] = None
        if self.due_at is None:
            self.due_at = now + self._backoff.next()

    def discard(self, key: K) -> None:
        """The key does not wait any more."""
        self._waiting.pop(key, None)
        if not self._waiting:
            self._backoff, self._size, self.due_at = self._new_backoff(), 1, None

    def take(self, now: float, limit: int) -> list[K]:
        """The keys to try now. They go on waiting until they are discarded; tell what came of it with `tried`."""
        if self.due_at is None or now < self.due_at:
            return []
        return list(itertools.islice(self._waiting, min(self._size, limit)))

    def tried(self, now: float, *, has_room: bool) -> None:
        """The keys last taken all found room, or at least one of them did not."""
        if not self._waiting:
            return
        if has_room:
            self._backoff.reset()
            self._size, self.due_at = self._size * 2, now
        else:
            self._size, self.due_at = 1, now + self._backoff.next()

    def room_made(self, now: float) -> None:
        """Something was removed from the target, perhaps: try one key now."""
        if self._waiting:
            self.due_at = now
