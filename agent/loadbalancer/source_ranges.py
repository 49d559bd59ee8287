# SPDX-License-Identifier: Apache-2.0
"""Which sources an address with loadBalancerSourceRanges answers: as text, and as entries of their map.

Ranges come before the head that asks for them, and go after it: between two writes nobody is let in whom neither the former
nor the new ranges let in.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from agent.datapath.errors import MapError, MapFullError
from agent.datapath.maps import Map
from agent.datapath.source_range_layout import SourceRangeKey, SourceRangeValue
from agent.loadbalancer.room import Room
from agent.tables import Frontend

MOST: Final = 1_000
"""Ranges of one service, of each family."""
_PRESENT: Final = SourceRangeValue()
_FIELD: Final = "loadBalancerSourceRanges"

Wanted = Iterable[tuple[int, Collection[str]]]
"""Ranges by service id."""


def read_ranges(texts: Iterable[str]) -> tuple[tuple[str, ...], list[str]]:
    """The ranges, each once, IPv4 first, in order of their addresses; and what is wrong with the others, as sentences.

    What cannot be read lets nobody in, nor does what is beyond the limit. Ranges say nothing about sources of the other family.
    """
    ipv4: set[IPv4Network] = set()
    ipv6: set[IPv6Network] = set()
    problems: list[str] = []
    for text in dict.fromkeys(texts):
        try:
            network = ip_network(text.strip(), strict=False)
        except ValueError:
            problems.append(f"{_FIELD}: {text[:64]!r} lets nobody in: it is no address range such as 198.51.100.0/24")
            continue
        if isinstance(network, IPv4Network):
            ipv4.add(network)
        else:
            ipv6.add(network)
    problems.extend(
        f"{_FIELD}: {len(found)} ranges are more than {MOST}: those with the highest addresses let nobody in"
        for found in (ipv4, ipv6)
        if len(found) > MOST
    )
    return (*map(str, sorted(ipv4)[:MOST]), *map(str, sorted(ipv6)[:MOST])), problems


class SourceRanges:
    """The map, and what it holds for each frontend."""

    def __init__(self, ranges: Map[SourceRangeKey, SourceRangeValue]) -> None:
        self._map, self._held = ranges, dict[int, set[str]]()
        self._unsure: set[int] = set()  # service ids whose last write failed: some of what is held may be missing
        self.room = Room(ranges)

    def restore(self) -> bool:
        """What an earlier agent left is known. False: nothing."""
        self._held = self._read()
        self.room.used = sum(map(len, self._held.values()))
        return bool(self._held)

    def lacking(self, service_id: int, row: Frontend) -> int:
        """How many entries are missing for the row."""
        return len(set(row.source_ranges or ()) - self._held.get(service_id, set()))

    def widen(self, wanted: Wanted) -> None:
        """These are let in too. Raises: MapFullError, MapError."""
        new: list[tuple[int, str]] = []
        for service_id, ranges in wanted:
            if not ranges:
                continue
            known = set() if service_id in self._unsure else self._held.get(service_id, set())
            new += [(service_id, text) for text in ranges if text not in known]
        for service_id, text in new:
            self._held.setdefault(service_id, set()).add(text)
        try:
            self._map.update([(SourceRangeKey(*key), _PRESENT) for key in new])
        except MapError as exc:
            self._unsure.update(service_id for service_id, _ in new)
            if isinstance(exc, MapFullError):
                self.room.full()
            raise
        finally:
            if new:  # what is held counts, also where nobody knows whether it was written: it is taken out as such
                self.room.used = sum(map(len, self._held.values()))
        self._unsure.difference_update(service_id for service_id, _ in new)

    def narrow(self, wanted: Wanted) -> None:
        """Nobody else is let in. Raises: MapError; what could not be taken out is known."""
        for service_id, ranges in wanted:
            gone = sorted(self._held.get(service_id, set()).difference(ranges))
            if not gone:
                continue
            self._map.delete([SourceRangeKey(service_id, text) for text in gone])
            self._held[service_id].difference_update(gone)
            self.room.used -= len(gone)
            if not self._held[service_id]:
                del self._held[service_id]
                self._unsure.discard(service_id)

    def check(self, service_ids: Collection[int]) -> set[int]:
        """What is held is what the map holds, and only for these; returns those whose entries others changed."""
        found, changed = self._read(), set[int]()
        for service_id in found.keys() | self._held.keys():
            if found.get(service_id, set()) != self._held.get(service_id, set()):
                changed.add(service_id)
        self._held = found
        self._unsure.clear()
        self.room.used = sum(map(len, found.values()))
        self.narrow([(service_id, ()) for service_id in found.keys() - set(service_ids)])
        return changed & set(service_ids)

    def _read(self) -> dict[int, set[str]]:
        found: dict[int, set[str]] = {}
        for entry in self._map.items():
            found.setdefault(entry[0].service_id, set()).add(entry[0].range)
        return found


def entries_of(service_id: int, row: Frontend) -> Iterator[SourceRangeKey]:
    """What the map holds for the row."""
    for text in row.source_ranges or ():
        yield SourceRangeKey(service_id, text)
