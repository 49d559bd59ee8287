# SPDX-License-Identifier: Apache-2.0
"""The network between programs, stores and API servers: how long things take, and who does not reach whom."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

USUAL_S: Final = (0.0005, 0.02)


class Wire:
    """A delay for each thing that is sent, drawn from the range of its pair; pairs that are cut."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._slow: dict[tuple[str, str], tuple[float, float]] = {}
        self._cut: set[tuple[str, str]] = set()

    def delays(self, source: str, target: str) -> Callable[[], float]:
        pair = (source, target)
        return lambda: self._rng.uniform(*self._slow.get(pair, USUAL_S))

    def set_slow(self, source: str, target: str, range_s: tuple[float, float] | None) -> None:
        if range_s is None:
            self._slow.pop((source, target), None)
        else:
            self._slow[source, target] = range_s

    def set_cut(self, source: str, target: str, *, is_cut: bool) -> None:
        (self._cut.add if is_cut else self._cut.discard)((source, target))

    def is_cut(self, source: str, target: str) -> bool:
        return (source, target) in self._cut

    @property
    def fails(self) -> bool:
        """Whether any pair is cut or slow."""
        return bool(self._slow or self._cut)

    def heal(self) -> None:
        """Everybody reaches everybody again, at the usual speed."""
        self._slow.clear()
        self._cut.clear()
