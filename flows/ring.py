# SPDX-License-Identifier: Apache-2.0
"""The newest flows of a node, each as the bytes it came in until somebody asks for it. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable
from typing import Final, NamedTuple

from flows.errors import RequestError
from flows.proto import flow_pb2 as pb
from flows.ring_capacity import DEFAULT_CAPACITY, check_capacity

_DISORDER: Final = 256
"""Events of several processors may stand this many places from where their times say."""


class FlowEntry(NamedTuple):
    """One flow, not decoded yet; a tuple because there may be a million of them.

    Flows with equal `sides` have equal addresses, names, labels, identities, services and node. Flows with equal `head`
    have equal type, verdict, direction, protocol and flags, and are or are not replies; None: nothing is known of it.
    Filters look at each of the two once. Both are compared by identity where possible: hand in the same object.
    """

    time_ns: int
    sides: Hashable
    head: Hashable
    raw: bytes


class Lost(NamedTuple):
    """Events that came before what the ring holds next, and will never be in it. Wall time in nanoseconds."""

    time_ns: int
    source: int
    number: int
    cpu: int = 0


Item = FlowEntry | Lost
Decode = Callable[[FlowEntry, int], pb.Flow]
"""The flow of an entry, and of its number in the ring."""


class Ring:
    """Items are numbered from 0 in the order in which they came; the newest `capacity` of them are kept."""

    def __init__(self, decode: Decode, capacity: int = DEFAULT_CAPACITY) -> None:
        self.capacity = check_capacity(capacity)
        self.decode = decode
        self._slots: list[Item] = []
        self.end = 0
        """The number of the next item."""

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def begin(self) -> int:
        """The number of the oldest item that is kept."""
        return self.end - len(self._slots)

    def extend(self, items: Iterable[Item]) -> None:
        """They are the newest, in this order."""
        slots, capacity = self._slots, self.capacity
        for item in items:
            if len(slots) < capacity:
                slots.append(item)
            else:
                slots[self.end % capacity] = item
            self.end += 1

    def slice(self, first: int, last: int) -> list[Item]:
        """Items `first` up to, not including, `last`, which are kept, oldest first."""
        size = len(self._slots)
        if first >= last or not size:
            return []
        start, stop = first % self.capacity, (last - 1) % self.capacity + 1
        if start < stop:
            return self._slots[start:stop]
        return self._slots[start:] + self._slots[:stop]

    def find(self, time_ns: int) -> int:
        """The number of an item before which nothing is as late as `time_ns`; a few after it may be earlier."""
        items = self.slice(self.begin, self.end)
        place = bisect_left(items, time_ns, key=lambda item: item.time_ns)
        return self.begin + max(place - _DISORDER, 0)

    @property
    def oldest_ns(self) -> int:
        """Since when nothing is missing, in wall nanoseconds; 0 for an empty ring."""
        return self.slice(self.begin, self.begin + 1)[0].time_ns if self._slots else 0


def decode_nothing(entry: FlowEntry, number: int) -> pb.Flow:
    """Of a ring of something else than flows, of which no filter may ask anything."""
    raise RequestError(f"item {number} of {entry.time_ns} ns is no flow")
