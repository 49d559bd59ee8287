# SPDX-License-Identifier: Apache-2.0
"""Sockets of the node's processes whose backend is gone are ended, as connections of pods are by their next packet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Final

from agent.datapath.socket_end import BackendPlace
from agent.loadbalancer.registry import protocol_number
from agent.tables import Target
from kube.client import in_thread
from meshkit.clock import Clock
from meshkit.errors import MAXIMUM_TEXT, MeshError
from meshkit.wake import Wake

log = logging.getLogger(__name__)
RETRY_S: Final = 10.0
MOST: Final = 4_096
"""Backends whose sockets wait for another attempt; of more, those that went first are left to their own time-outs."""


class LostSockets:
    """What is told by `add` is handled by `run`; what the kernel refuses is tried again, unless it is a backend again.

    `known` are the backends there are.
    """

    def __init__(
        self,
        end: Callable[[Collection[BackendPlace]], int],
        known: Callable[[], Collection[Target]],
        clock: Clock,
    ) -> None:
        self._end, self._known, self._clock = end, known, clock
        self._due: dict[BackendPlace, None] = {}
        self._changed = Wake()
        self.ended_total = 0
        self.obstacle = ""
        """Why sockets could not be ended the last time; empty if they could."""

    def add(self, targets: Collection[Target]) -> None:
        """The address of these backends is nobody's any more, or another pod's."""
        self._due.update((_place(target), None) for target in targets)
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            seen = self._changed.count
            due, self._due = self._due, {}
            if due:
                try:
                    self.ended_total += await in_thread(self._end, list(due))
                    self.obstacle = ""
                except MeshError as exc:
                    self._note(str(exc)[:MAXIMUM_TEXT])
                    self._due = due | self._due
                    await self._clock.sleep(RETRY_S)
                    self._forget()
                    continue
            await self._changed.wait(seen)

    def _forget(self) -> None:
        for target in self._known():
            self._due.pop(_place(target), None)
        for place in list(self._due)[: max(0, len(self._due) - MOST)]:
            del self._due[place]

    def _note(self, reason: str) -> None:
        if reason != self.obstacle:
            log.warning("sockets to lost backends could not be ended", extra={"error": reason})
        self.obstacle = reason


def _place(target: Target) -> BackendPlace:
    return BackendPlace(target.address, target.port, protocol_number(target.protocol))
