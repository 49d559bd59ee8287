# SPDX-License-Identifier: Apache-2.0
"""When a container that ended is started again. Pure.

The first time at once, then after 1, 2, 4 … 30 s, from the beginning again after a minute of running. A production
kubelet waits ten times as long; a lab is for people who watch.
"""

from __future__ import annotations

from typing import Final

FIRST_S: Final = 1.0
LONGEST_S: Final = 30.0
FORGIVEN_AFTER_S: Final = 60.0


class RestartDelays:
    """The delays of one container."""

    def __init__(self) -> None:
        self._failures = 0

    def next(self, ran_s: float) -> float:
        """Seconds to wait before the next start, given how long the container ran."""
        self._failures = 1 if ran_s >= FORGIVEN_AFTER_S else self._failures + 1
        if self._failures == 1:
            return 0.0
        return float(min(LONGEST_S, FIRST_S * 2 ** min(self._failures - 2, 10)))
