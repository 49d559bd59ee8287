# SPDX-License-Identifier: Apache-2.0
"""The least that tiers could take lately: a tier that lost backends gets its share back once it was better for a while. Pure.

So a backend that comes and goes moves connections away once, not at every turn.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

HOLD_S: Final = 30.0


@dataclass(slots=True)
class _Low:
    capacity: Fraction
    until_s: float | None = None  # None: it is as low still


class LowCapacities(Generic[K]):
    """By any key and word of a tier. A tier of which nothing was noted, or that was never less than now, is not held."""

    def __init__(self) -> None:
        self._low: dict[K, dict[str, _Low]] = {}

    def note(self, key: K, capacities: Iterable[tuple[str, Fraction]], now_s: float) -> None:
        """These tiers, and no others, are there now, and this is what each can take."""
        before = self._low.get(key, {})
        now: dict[str, _Low] = {}
        for word, capacity in capacities:
            low = before.get(word)
            if low is None or capacity <= low.capacity or _is_over(low, now_s):
                low = _Low(capacity)
            elif low.until_s is None:
                low.until_s = now_s + HOLD_S
            now[word] = low
        if now:
            self._low[key] = now
        else:
            self._low.pop(key, None)

    def keep(self, keys: Collection[K]) -> None:
        """There are no other keys any more."""
        self._low = {key: low for key, low in self._low.items() if key in keys}

    def held(self, key: K, now_s: float) -> Mapping[str, Fraction]:
        """At most so much of each tier is used."""
        return {word: low.capacity for word, low in self._low.get(key, {}).items() if not _is_over(low, now_s)}

    def due_s(self, now_s: float) -> float | None:
        """When a tier may be used more than now, if nothing else happens; None: never. What is over is forgotten."""
        for key, lows in list(self._low.items()):
            self._low[key] = {word: low for word, low in lows.items() if not _is_over(low, now_s)}
            if not self._low[key]:
                del self._low[key]
        untils = (low.until_s for lows in self._low.values() for low in lows.values())
        return min((until_s for until_s in untils if until_s is not None), default=None)


def _is_over(low: _Low, now_s: float) -> bool:
    return low.until_s is not None and now_s >= low.until_s
