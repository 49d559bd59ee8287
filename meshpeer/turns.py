# SPDX-License-Identifier: Apache-2.0
"""How much of what a store tells is handed over at once, by what it costs to read. Pure.

An endpoint slice is compressed: a kilobyte of it may take as long to read as megabytes of another record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from kvstore.store import Event
from meshmodel.keys import Kind

EVENTS_PER_TURN: Final = 1_000
COST_PER_TURN: Final = 2 << 20
SLICE_FACTOR: Final = 4
"""A byte of a slice's message costs as much time as four of JSON."""

Cost = Callable[[bytes], int]
"""How many bytes of JSON take as long to read as this value."""


def cost_of(kind: Kind) -> Cost:
    """Of the values of records of this kind."""
    if kind is not Kind.ENDPOINT_SLICES:
        return len
    from meshmodel.endpointslice import message_size

    return lambda value: SLICE_FACTOR * message_size(value) if value else 0


def turns(events: Sequence[Event], cost: Cost) -> Iterator[Sequence[Event]]:
    """The events in parts, in their order: few enough, and not more costly than a turn may be, unless there is one alone."""
    start = used = 0
    for place, event in enumerate(events):
        more = cost(event.value)
        if place > start and (place - start >= EVENTS_PER_TURN or used + more > COST_PER_TURN):
            yield events[start:place]
            start, used = place, 0
        used += more
    if start < len(events):
        yield events[start:]
