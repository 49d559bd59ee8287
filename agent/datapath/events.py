# SPDX-License-Identifier: Apache-2.0
"""Records out of the kernel's ring buffer."""

from __future__ import annotations

from collections.abc import AsyncIterator

from agent.datapath.flow_layout import DatapathEvent


class EventRing:
    """The consumer side of mesh_events; there is one per node at a time."""

    def drain(self, limit: int = 4096) -> list[DatapathEvent]:
        """Up to `limit` waiting events, oldest first; never blocks."""
        raise NotImplementedError

    def batches(self, limit: int = 4096) -> AsyncIterator[list[DatapathEvent]]:
        """Non-empty batches for as long as the loop runs; cancel to stop."""
        raise NotImplementedError

    @property
    def lost(self) -> int:
        """Events the kernel could not deliver since the maps were made: buffer full or over the rate."""
        raise NotImplementedError

    def close(self) -> None:
        """Unmap; the ring stays in the kernel."""
        raise NotImplementedError
