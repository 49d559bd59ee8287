# SPDX-License-Identifier: Apache-2.0
"""A node's flows as they come: the ring, who waits for the next one, how fast they come, and where they were."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import Final

from flows.proto import observer_pb2 as observer
from flows.query import Reading
from flows.ring import Decode, Item, Ring
from meshkit.wake import Wake

RATE_WINDOW_S: Final = 60.0
NAMESPACES_KEPT_S: Final = 3600.0


class LiveFlows:
    """The newest flows and the next ones. One event loop owns it."""

    def __init__(self, decode: Decode, capacity: int, node_name: str) -> None:
        self.ring = Ring(decode, capacity)
        self.node_name = node_name
        self._wake = Wake()
        self._samples: deque[tuple[float, int]] = deque()
        self._namespaces: dict[tuple[str, str], float] = {}

    def extend(self, items: Iterable[Item]) -> None:
        """They were seen now."""
        self.ring.extend(items)
        self._wake.set()

    def note_namespaces(self, found: Iterable[tuple[str, str]], now_s: float) -> None:
        """Flows of these namespaces, each with its cluster, were seen."""
        for key in found:
            self._namespaces[key] = now_s

    def namespaces(self, now_s: float) -> list[tuple[str, str]]:
        """Cluster and namespace of every flow of the last hour, in this order."""
        recent = {key: last for key, last in self._namespaces.items() if last > now_s - NAMESPACES_KEPT_S}
        self._namespaces = recent
        return sorted(recent)

    def note_rate(self, now_s: float) -> None:
        """Called about once a second."""
        samples = self._samples
        samples.append((now_s, self.ring.end))
        while len(samples) > 1 and samples[1][0] <= now_s - RATE_WINDOW_S:
            samples.popleft()

    @property
    def rate(self) -> float:
        """Flows a second, over the last minute."""
        if len(self._samples) < 2:
            return 0.0
        (then, before), (now, after) = self._samples[0], self._samples[-1]
        return (after - before) / (now - then) if now > then else 0.0

    def status(self, uptime_s: float, version: str) -> observer.ServerStatusResponse:
        """What an observer says of itself."""
        return observer.ServerStatusResponse(
            num_flows=len(self.ring),
            max_flows=self.ring.capacity,
            seen_flows=self.ring.end,
            uptime_ns=int(uptime_s * 1e9),
            version=version,
            flows_rate=self.rate,
        )

    def read(self, request: observer.GetFlowsRequest) -> Reading:
        """The request, begun. Raises: RequestError, FilterError."""
        return Reading(self.ring, request)

    async def steps(self, reading: Reading) -> AsyncIterator[list[tuple[Item, int]]]:
        """What it finds, as it comes; with an empty list now and then, so that others have their turn."""
        while not reading.is_done:
            rung = self._wake.count
            found = reading.step()
            yield found
            if reading.waits:
                await self._wake.wait(rung)
