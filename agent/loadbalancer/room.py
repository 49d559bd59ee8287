# SPDX-License-Identifier: Apache-2.0
"""How many entries still fit in a map, without asking it: what is in force stays, what does not fit is not begun."""

from __future__ import annotations

import errno

from agent.datapath.errors import MapFullError


class Room:
    """Entries of one map, counted as they are written. `full` corrects the count when the kernel knows better."""

    def __init__(self, name: str, maximum: int, used: int) -> None:
        self.name, self.maximum, self.used = name, maximum, used

    @property
    def free(self) -> int:
        return max(0, self.maximum - self.used)

    def full(self) -> None:
        """The kernel refused an entry."""
        self.used = max(self.used, self.maximum)

    def refusal(self) -> MapFullError:
        return MapFullError(self.name, "update", errno.E2BIG, 0)
