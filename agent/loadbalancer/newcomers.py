# SPDX-License-Identifier: Apache-2.0
"""What part of its share a backend takes while it is new, for services that ask for it (`slow-start`). Pure.

It grows in eighths, at ticks that all backends of a service have in common: a service is written anew eight times in a window
at most, however many of its backends are new. What is known when a service or its annotation is first seen is not new.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from math import floor
from typing import Final

from agent.tables import Target
from meshmodel.names import ClusterName, ServiceName

STEPS: Final = 8


class Newcomers:
    """By service: the backends of each cluster, and when those came that are not full-grown."""

    def __init__(self) -> None:
        self._known: dict[ServiceName, dict[ClusterName, frozenset[Target]]] = {}
        self._born: dict[ServiceName, dict[Target, float]] = {}

    def note(
        self, name: ServiceName, cluster: ClusterName, targets: Iterable[Target], now_s: float, *, is_listing: bool
    ) -> None:
        """The cluster has these backends. `is_listing`: what it has is only being told, none of it is new."""
        now, before = frozenset(targets), self._known.setdefault(name, {}).get(cluster)
        self._known[name][cluster] = now
        born = self._born.setdefault(name, {})
        for target in (before or frozenset()) - now:
            born.pop(target, None)
        if before is not None and not is_listing:
            born.update(dict.fromkeys(now - before, now_s))

    def knows(self, name: ServiceName) -> bool:
        return name in self._known

    def forget(self, name: ServiceName) -> None:
        """The service is gone, or does not ask any more."""
        self._known.pop(name, None)
        self._born.pop(name, None)

    def grown(self, name: ServiceName, window_s: int, now_s: float) -> dict[Target, Fraction]:
        """What part of a full-grown backend's connections those take that are not."""
        found = {target: _steps(born_s, window_s, now_s) for target, born_s in self._born.get(name, {}).items()}
        return {target: Fraction(steps, STEPS) for target, steps in found.items() if steps < STEPS}

    def due_s(self, name: ServiceName, window_s: int, now_s: float) -> float | None:
        """When one of them takes more than now; None if all are full-grown."""
        if not self.grown(name, window_s, now_s):
            return None
        return (floor(now_s * STEPS / window_s) + 1) * window_s / STEPS


def _steps(born_s: float, window_s: int, now_s: float) -> int:
    """1 from the beginning, one more at each tick since."""
    ticks = floor(now_s * STEPS / window_s) - floor(born_s * STEPS / window_s)
    return max(1, min(STEPS, ticks + 1))
