# SPDX-License-Identifier: Apache-2.0
"""Whitelist minus blacklist, decided for the entries of a ring without decoding most of them. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final

from flows.errors import FilterError
from flows.filters import compile_filter
from flows.proto import flow_pb2 as pb
from flows.ring import Decode, FlowEntry, Item, Ring

MOST_FILTERS: Final = 100
"""Of one request, both lists together."""
_REMEMBERED: Final = 1 << 16


class FlowSelection:
    """What a request asks for. Raises: FilterError.

    Each filter is a bit: of the sides of a flow and of its head it is known which filters they pass, and a flow is decoded
    only where more than these two is asked of it.
    """

    def __init__(self, whitelist: Sequence[pb.FlowFilter] = (), blacklist: Sequence[pb.FlowFilter] = ()) -> None:
        if len(whitelist) + len(blacklist) > MOST_FILTERS:
            raise FilterError("filters", f"more than {MOST_FILTERS} in one request")
        self._filters = tuple(compile_filter(wanted) for wanted in (*whitelist, *blacklist))
        self._white = (1 << len(whitelist)) - 1
        self._rest = sum(1 << n for n, each in enumerate(self._filters) if each.rest)
        self._sides: dict[Hashable, int] = {}
        self._heads: dict[Hashable, int] = {}

    def passes(self, flow: pb.Flow) -> bool:
        """The answer for a flow that is decoded already."""
        return self._decide(sum(1 << n for n, each in enumerate(self._filters) if each.passes(flow)))

    def selects(self, entry: FlowEntry, number: int, decode: Decode) -> bool:
        """The same answer for an entry and its number in the ring."""
        if not self._filters:
            return True
        if entry.head is None:
            return self.passes(decode(entry, number))
        sides, heads = self._sides.get(entry.sides), self._heads.get(entry.head)
        if sides is None or heads is None:
            flow = decode(entry, number)
            sides, heads = self._learn(entry, flow)
        possible = sides & heads
        if possible & self._rest:
            flow = decode(entry, number)
            for n, each in enumerate(self._filters):
                if possible >> n & 1 and not all(predicate(flow) for predicate in each.rest):
                    possible &= ~(1 << n)
        return self._decide(possible)

    def newest(self, ring: Ring, number: int, until_ns: int | None) -> list[tuple[Item, int]]:
        """The last `number` that pass, oldest first, each with its number in the ring, and what was lost between them."""
        found: list[tuple[Item, int]] = []
        sides_of, heads_of, white, rest = self._sides.get, self._heads.get, self._white, self._rest
        position, left = ring.end, number
        for item in reversed(ring.slice(ring.begin, ring.end)):
            position -= 1
            if item.__class__ is FlowEntry:
                sides, heads = sides_of(item.sides), heads_of(item.head)
                if sides is None or heads is None or (possible := sides & heads) & rest:
                    if not self.selects(item, position, ring.decode):
                        continue
                elif possible & ~white or (white and not possible):
                    continue
                if until_ns is not None and item.time_ns > until_ns:
                    continue
                left -= 1
            elif until_ns is not None and item.time_ns > until_ns:
                continue
            found.append((item, position))
            if not left:
                break
        return found[::-1]

    def _learn(self, entry: FlowEntry, flow: pb.Flow) -> tuple[int, int]:
        if len(self._sides) >= _REMEMBERED:
            self._sides.clear()
        sides = self._bits(flow, "sides")
        heads = self._bits(flow, "head")
        self._sides[entry.sides], self._heads[entry.head] = sides, heads
        return sides, heads

    def _bits(self, flow: pb.Flow, group: str) -> int:
        return sum(1 << n for n, each in enumerate(self._filters) if all(p(flow) for p in getattr(each, group)))

    def _decide(self, passed: int) -> bool:
        if self._white and not passed & self._white:
            return False
        return not passed & ~self._white
