# SPDX-License-Identifier: Apache-2.0
"""Which kinds a program follows through one client, and of which of them it does not hear now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(slots=True)
class Progress:
    """Where a reflector stands; plain values that another thread may read."""

    synced: bool = False
    connected: bool = False
    absent: bool = False
    failures: int = 0
    lists: int = 0
    last_error: str = ""
    resource_version: str = ""


class Following:
    """The reflectors that run, by the plural of their kind. Used on one thread."""

    def __init__(self) -> None:
        self._running: dict[int, tuple[str, Progress]] = {}

    def begin(self, plural: str, progress: Progress) -> None:
        """A reflector runs from now on."""
        self._running[id(progress)] = (plural, progress)

    def end(self, progress: Progress) -> None:
        """It runs no more."""
        del self._running[id(progress)]

    def broken(self) -> Mapping[str, str]:
        """The kinds whose last listing or watch failed, sorted, each with what the server or the network said."""
        failed = {plural: progress.last_error for plural, progress in self._running.values() if progress.failures}
        return dict(sorted(failed.items()))
