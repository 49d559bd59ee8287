# SPDX-License-Identifier: Apache-2.0
"""The backends of one EndpointSlice: each of its addresses with each of its ports. Pure.

A few kilobytes of addresses and ports may mean millions of them. Those of a slice as controllers write it are made at once and
kept; of others they are made when they are asked for, so that a slice takes as much memory as its object is long.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from sys import intern
from typing import Final, Protocol

from agent.tables import Backend, Hints, hints_of
from kubeintent.rows import SliceEndpointIntent
from meshmodel.condition import Condition

AT_ONCE: Final = 4
"""So many backends for each endpoint and port that the object lists are kept."""

Take = tuple[SliceEndpointIntent, Condition]
SlicePort = tuple[int, str, tuple[str, ...]]
"""Number, protocol, names."""


class SliceBackends(Protocol):
    """Known by their number, and made as often as they are asked for."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Backend]: ...


class Combinations:
    """Each address with each port, made one by one."""

    def __init__(self, takes: Sequence[Take], ports: Sequence[SlicePort]) -> None:
        self._takes, self._ports = takes, ports
        self._count = len(ports) * sum(len(endpoint.addresses) for endpoint, _ in takes)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Backend]:
        known: dict[Hints, Hints] = {}
        for endpoint, condition in self._takes:
            found_hints = hints_of(endpoint.for_zones, endpoint.for_nodes)
            hints, node = known.setdefault(found_hints, found_hints), intern(endpoint.node_name)
            for address in endpoint.addresses:
                for number, protocol, names in self._ports:
                    yield Backend(address, number, protocol, names, condition, True, endpoint.zone, node, hints)


def backends_of(takes: Sequence[Take], ports: Sequence[SlicePort]) -> SliceBackends:
    """Those that are in proportion to the object are made now, others when they are asked for."""
    found = Combinations(takes, ports)
    return tuple(found) if len(found) <= AT_ONCE * (len(takes) + len(ports)) else found


def first_of(pieces: Sequence[SliceBackends], most: int) -> Iterable[Iterable[Backend]]:
    """As many of what all pieces have as are looked at, piece by piece."""
    if sum(map(len, pieces)) <= most:
        return pieces
    return (islice(chain.from_iterable(pieces), most),)
