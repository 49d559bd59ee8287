# SPDX-License-Identifier: Apache-2.0
"""What a GetFlows request takes out of a ring. Pure. Source: the semantics of Hubble's observer.

Filters come before counting: `number` is the last so many that pass, or with `first` the first. `since` says where to begin
whatever `number` is, `until` where to end. A request that follows begins with what `number` or `since` asks for, or else
with what comes from now on. Lost events pass every filter and are not counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from flows.errors import RequestError
from flows.proto import flow_pb2 as pb
from flows.proto import observer_pb2 as observer
from flows.ring import FlowEntry, Item, Lost, Ring
from flows.selection import FlowSelection


def to_text(time_ns: int) -> str:
    """A wall time as people may ask for it with `--since`, to the second."""
    return datetime.fromtimestamp(time_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


NOTHING_MATCHES: Final = "nothing on this node matches"
"""How a node begins to say that it has flows, and none of those that were asked for."""
STEP: Final = 512
"""Items that are looked at without a pause."""
MOST_KEPT: Final = 1024
"""The last so many are found in one pass; of more it is found first where they begin."""


class Reading:
    """One request under way: a place in the ring, and at first MOST_KEPT items at most. Raises: RequestError, FilterError."""

    def __init__(self, ring: Ring, request: observer.GetFlowsRequest) -> None:
        if request.first and request.follow:
            raise RequestError("first and follow cannot be asked for together")
        self._ring, self._selection = ring, FlowSelection(request.whitelist, request.blacklist)
        self.follows = request.follow
        self._since_ns = request.since.ToNanoseconds() if request.HasField("since") else None
        self._until_ns = request.until.ToNanoseconds() if request.HasField("until") else None
        self._end = None if request.follow else ring.end
        self._left: int | None = request.number if request.first and self._since_ns is None and request.number else None
        self._missed = 0
        self._kept: list[tuple[Item, int]] = []
        self._wanted = 0 if request.first else request.number
        self._passed = 0
        self.is_done = False
        self.position = self._find_start(request)

    def _find_start(self, request: observer.GetFlowsRequest) -> int:
        ring = self._ring
        if self._since_ns is not None:
            return ring.find(self._since_ns)
        if request.first or (not request.number and not request.follow) or request.number >= len(ring) > 0:
            return ring.begin
        if request.number <= MOST_KEPT:
            self._kept = self._selection.newest(ring, request.number, self._until_ns) if request.number else []
            return ring.end
        found = self._selection.newest(ring, request.number, self._until_ns)
        return found[0][1] if found else ring.end

    def step(self) -> list[tuple[Item, int]]:
        """What passes of the next items, with their numbers; may be nothing though there is more: see `is_done`, `waits`."""
        ring, end = self._ring, self._ring.end if self._end is None else self._end
        found, self._kept = self._kept, []
        if self.position < ring.begin:
            self._note_missed(found, min(ring.begin, end) - self.position)
            self.position = min(ring.begin, end)
        stop = min(self.position + STEP, end)
        items = ring.slice(self.position, stop)
        found += self._passing(items)
        self.position = stop
        if self._end is not None and (self.position >= end or self._left == 0):
            self.is_done = True
        if self.is_done and self._missed:
            found.append((Lost(ring.oldest_ns, pb.HUBBLE_RING_BUFFER, self._missed), 0))
        self._passed += sum(isinstance(item, FlowEntry) for item, _ in found)
        return found

    def shortfall(self) -> str:
        """Of a request that is done: why it found nothing, or since when there are flows if more was asked for; else empty."""
        ring = self._ring
        if not ring.end:
            return "no flow was seen yet"
        since = f"since {to_text(ring.oldest_ns)}"
        if not self._passed:
            return f"{NOTHING_MATCHES}: it keeps {len(ring)} flows {since}"
        is_short = self._passed < self._wanted or (self._since_ns is not None and self._since_ns < ring.oldest_ns)
        return f"flows {since}: older ones are not kept" if ring.begin and is_short else ""

    @property
    def waits(self) -> bool:
        """Nothing more is there yet."""
        return not self.is_done and not self._kept and self.position >= self._ring.end

    def _note_missed(self, found: list[tuple[Item, int]], number: int) -> None:
        """Of a request that ends they are told once, at its end; of one that follows, where they are missing."""
        if self.follows:
            found.append((Lost(self._ring.oldest_ns, pb.HUBBLE_RING_BUFFER, number), 0))
        else:
            self._missed += number

    def _passing(self, items: list[Item]) -> Iterator[tuple[Item, int]]:
        since_ns, until_ns, selects, decode = self._since_ns, self._until_ns, self._selection.selects, self._ring.decode
        for number, item in enumerate(items, self.position):
            if since_ns is not None and item.time_ns < since_ns:
                continue
            if until_ns is not None and item.time_ns > until_ns:
                self.is_done = True
                return
            if isinstance(item, Lost):
                yield item, number
            elif selects(item, number, decode):
                yield item, number
                if self._left is not None:
                    self._left -= 1
                    if not self._left:
                        return
