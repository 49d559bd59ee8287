# SPDX-License-Identifier: Apache-2.0
"""How many slots one Service may have in all: its ports times their backends, which few objects make many of. Pure."""

from __future__ import annotations

from typing import Final

from agent.tables import ServicePort

MOST_SLOTS: Final = 1 << 18
"""Half of the service map, of the default size; ten ports of ten thousand backends have room twice."""


class SlotRoom:
    """What is left of it. The first port that finds no room, and all that follow, are left out, and `said` has one sentence."""

    def __init__(self, said: list[str]) -> None:
        self._said, self._left = said, MOST_SLOTS

    @property
    def is_left(self) -> bool:
        """Whether the next port need be chosen for at all."""
        return self._left >= 0

    def take(self, port: ServicePort, slots: int) -> bool:
        """The port has so many slots; false if it is left out."""
        if self._left >= 0:
            self._left -= slots
            if self._left < 0:
                what = f"port {port.name or port.port}/{port.protocol} and what follows is left out"
                self._said.append(f"ports times backends are more than {MOST_SLOTS}: {what}")
        return self._left >= 0
