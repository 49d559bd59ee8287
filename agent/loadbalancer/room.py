# SPDX-License-Identifier: Apache-2.0
"""How many entries still fit in a map, without asking it: what is in force stays, what does not fit is not begun.

A refusal of the kernel says what was so at that moment: others may have put entries into the map and take them out again. It is
believed for one round; the next one counts what the map holds.
"""

from __future__ import annotations

import errno
from typing import Any

from agent.datapath.errors import MapFullError
from agent.datapath.maps import Map


class Room:
    """Entries of one map, counted as they are written; `full` and `look_again` correct that when the kernel knows better."""

    def __init__(self, entries: Map[Any, Any]) -> None:
        self._entries, details = entries, entries.info()
        self.name, self.maximum, self.used = details.name, details.max_entries, details.count
        self._is_refused = False

    @property
    def free(self) -> int:
        return 0 if self._is_refused else max(0, self.maximum - self.used)

    def note(self, error: Exception) -> None:
        """A write failed. If the kernel refused an entry of this map there is no room until `look_again`."""
        if isinstance(error, MapFullError) and error.name == self.name:
            self.full()

    def full(self) -> None:
        """The kernel refused an entry: there is no room until `look_again`."""
        self._is_refused = True

    def look_again(self) -> None:
        """After a refusal `used` is what the map holds, whoever wrote it. Walks the whole map then."""
        if self._is_refused:
            self.used, self._is_refused = self._entries.info().count, False

    def refusal(self) -> MapFullError:
        return MapFullError(self.name, "update", errno.E2BIG, 0)
