# SPDX-License-Identifier: Apache-2.0
"""One endpoint's compiled policy: an immutable value that can be looked up, flattened and compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from meshpolicy.mapstate import ANY_IDENTITY, EntryKey, Group, PolicyEntry, Verdict, decide, find_longest
from meshpolicy.reference import Direction

_NO_GROUP: Final[Group] = {}
_NO_GROUPS: Final[Mapping[int, Group]] = {}


class PolicyDiff(NamedTuple):
    """What must be written and deleted in a map that holds an older policy."""

    updates: Mapping[EntryKey, PolicyEntry]
    deletes: tuple[EntryKey, ...]


@dataclass(frozen=True, slots=True)
class DirectionPolicy:
    """One direction. Not enforced: everything is allowed and there are no entries."""

    enforced: bool = False
    groups: Mapping[int, Group] = field(default_factory=dict)
    """Peer identity (0 = any) → entries; groups are shared between endpoints and must not be changed."""
    is_proxied: bool = False
    """Some of it goes through a proxy, so that every group answers for rules that name everybody, too."""


@dataclass(frozen=True, slots=True)
class EndpointPolicy:
    """What an endpoint with some identity and some named ports enforces."""

    ingress: DirectionPolicy = DirectionPolicy()
    egress: DirectionPolicy = DirectionPolicy()
    _entries: list[Mapping[EntryKey, PolicyEntry]] = field(default_factory=list, repr=False, compare=False)

    @property
    def ingress_enforced(self) -> bool:
        """Whether connections to the endpoint are denied unless an entry allows them."""
        return self.ingress.enforced

    @property
    def egress_enforced(self) -> bool:
        """Whether connections from the endpoint are denied unless an entry allows them."""
        return self.egress.enforced

    @property
    def size(self) -> int:
        """The number of entries, without making them."""
        return sum(len(group) for d in Direction for group in self.side(d).groups.values())

    @property
    def entries(self) -> Mapping[EntryKey, PolicyEntry]:
        """The flat map, as the kernel holds it. Made on first use."""
        if not self._entries:
            self._entries.append(dict(self._flat()))
        return self._entries[0]

    def _flat(self) -> Iterator[tuple[EntryKey, PolicyEntry]]:
        for direction in Direction:
            for peer, group in self.side(direction).groups.items():
                for key, entry in group.items():
                    yield EntryKey(direction, peer, *key), entry

    def side(self, direction: Direction) -> DirectionPolicy:
        """The part for one direction."""
        return self.ingress if direction is Direction.INGRESS else self.egress

    def verdict(self, direction: Direction, identity: int, protocol: int, port: int) -> Verdict:
        """The decision on a new connection with a peer; the same as `lookup` over `entries`, without flattening."""
        side = self.side(direction)
        if not side.enforced:
            return Verdict(allowed=True, key=None, entry=None)
        anyone = side.groups.get(ANY_IDENTITY)
        named = side.groups.get(identity) if identity != ANY_IDENTITY else None
        return decide(
            direction,
            identity,
            find_longest(named.get, protocol, port) if named else None,
            find_longest(anyone.get, protocol, port) if anyone else None,
        )

    def diff(self, previous: EndpointPolicy | None) -> PolicyDiff:
        """What turns a map that holds `previous` (None: nothing) into this policy; only the differences."""
        updates: dict[EntryKey, PolicyEntry] = {}
        deletes: list[EntryKey] = []
        for direction in Direction:
            new = self.side(direction).groups
            old = previous.side(direction).groups if previous is not None else _NO_GROUPS
            for peer, group in new.items():
                before = old.get(peer, _NO_GROUP)
                if group is before:
                    continue
                for key, entry in group.items():
                    if before.get(key) != entry:
                        updates[EntryKey(direction, peer, *key)] = entry
                deletes.extend(EntryKey(direction, peer, *key) for key in before if key not in group)
            gone = old.keys() - new.keys()
            deletes.extend(EntryKey(direction, peer, *key) for peer in gone for key in old[peer])
        return PolicyDiff(updates, tuple(deletes))
