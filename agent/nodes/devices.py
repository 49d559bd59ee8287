# SPDX-License-Identifier: Apache-2.0
"""The datapath fits this node's overlay and underlay devices: a changed MTU, a device made again, a moved address.

What comes by a device that the address moved to is judged by nobody until the datapath is there, so that a change after a quiet
time is looked at without waiting for more of them.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Final, Protocol

from agent.datapath.rtnetlink import LinkChanges
from meshkit.clock import Clock
from meshkit.errors import MeshError
from meshkit.wake import Wake, wait_for_ring

log = logging.getLogger(__name__)

GATHER_S: Final = 0.5
RETRY_S: Final = 5.0


class Machine(Protocol):
    """The part of the host that is followed here."""

    def changes(self) -> AsyncIterator[LinkChanges]: ...
    def is_current(self) -> bool: ...
    def adapt(self) -> None: ...
    def move_to(self, address: str) -> None: ...


class DeviceFollower:
    """`failure` says why the datapath does not fit the devices; "" while it does."""

    def __init__(self, machine: Machine, clock: Clock) -> None:
        self._machine, self._clock, self._wake = machine, clock, Wake()
        self.failure = ""

    async def hear(self) -> None:
        """Until cancelled."""
        async for _ in self._machine.changes():
            self._wake.set()

    def move_to(self, address: str) -> None:
        """The node has another address: the datapath is to be that one's, as soon as a device has it."""
        self._machine.move_to(address)
        self._wake.set()

    async def follow(self) -> None:
        """Until cancelled: at once, at most one look every GATHER_S, none while nothing changes and all is well."""
        while True:
            rung, looked_s = self._wake.count, self._clock.monotonic()
            self.look()
            if self.failure:
                await wait_for_ring(self._wake, rung, RETRY_S, self._clock)
            else:
                await self._wake.wait(rung)
            await self._clock.sleep(max(0.0, looked_s + GATHER_S - self._clock.monotonic()))

    def look(self) -> None:
        """The datapath fits the devices, or `failure` says why not and what ran goes on."""
        try:
            if not self._machine.is_current():
                self._machine.adapt()
        except (MeshError, OSError) as exc:
            if str(exc) != self.failure:
                log.warning("datapath does not fit the devices, retrying", extra={"error": str(exc)})
            self.failure = str(exc)
        else:
            self.failure = ""
