# SPDX-License-Identifier: Apache-2.0
"""Ports of a proxy that policy entries name and that nobody listens on, and whom that concerns. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Final

PATIENCE_S: Final = 1.5
"""How long a proxy may take to open a port before anybody is told."""
_LOOK_S: Final = 0.25
_CALM_S: Final = 5.0


class ClosedPorts:
    """`users` are the addresses of the endpoints whose entries name each port.

    `failures` are those of them that were told of a closed port, with the reason; `on_change` is called when they are others.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._missing_since_s: float | None = None
        self.users: Mapping[int, Set[str]] = {}
        self.missing: Set[int] = frozenset()
        """Ports that nobody listened on when they were last compared."""
        self.failures: Mapping[str, str] = {}

    def compare(self, listening: Set[int], now_s: float, reason: Callable[[], str]) -> None:
        """These ports are listened on, at this time of the monotonic clock. `reason` is asked if there is somebody to tell."""
        self.missing = self.users.keys() - listening
        if not self.missing:
            self._missing_since_s = None
        elif self._missing_since_s is None:
            self._missing_since_s = now_s
        is_late = self._missing_since_s is not None and now_s - self._missing_since_s >= PATIENCE_S
        told = sorted({address for port in self.missing for address in self.users[port]}) if is_late else []
        found = dict.fromkeys(told, reason()) if told else {}
        if found != self.failures:
            self.failures = found
            self._on_change()

    @property
    def pause_s(self) -> float | None:
        """When they are to be compared again; None if no port is named."""
        return _LOOK_S if self.missing else _CALM_S if self.users else None
