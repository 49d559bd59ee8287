# SPDX-License-Identifier: Apache-2.0
"""What the kernel holds: entries, their precedence, and the lookup that decides a packet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from typing import Final, NamedTuple

from meshpolicy.port import ANY_PROTOCOL, EVERYTHING, PORT_BITS, L4Key
from meshpolicy.reference import Direction, RuleOrigin
from meshpolicy.tier import Level

ANY_IDENTITY: Final = 0
_DENY: Final = 255
_NEVER_PROXIED: Final = 254
_PROXY: Final = 2
_ALLOW: Final = 1
_PASS: Final = 0
_LEVEL_SHIFT: Final = 8
_VERDICT: Final = 255


class EntryKey(NamedTuple):
    """A key of an endpoint's policy map: identity 0 is any peer, protocol 0 any protocol, `port_bits` count."""

    direction: Direction
    identity: int
    protocol: int
    port: int
    port_bits: int


class PolicyEntry(NamedTuple):
    """A value of the policy map. The higher precedence wins; it encodes level and verdict in one number."""

    deny: bool
    precedence: int
    proxy_port: int
    rule: RuleOrigin


class MatchType(IntEnum):
    """How specific the deciding entry was; the numbers are those of flow records."""

    NONE = 0
    L3_ONLY = 1
    L3_L4 = 2
    L4_ONLY = 3
    ALL = 4
    L3_PROTO = 5
    PROTO_ONLY = 6


class Verdict(NamedTuple):
    """The decision on a new connection, and the entry that made it (None: by default)."""

    allowed: bool
    key: EntryKey | None
    entry: PolicyEntry | None

    @property
    def match_type(self) -> MatchType:
        """What of peer, protocol and port the deciding entry names."""
        if self.key is None:
            return MatchType.NONE
        named = self.key.identity != ANY_IDENTITY
        if self.key.protocol == ANY_PROTOCOL:
            return MatchType.L3_ONLY if named else MatchType.ALL
        if self.key.port_bits == 0:
            return MatchType.L3_PROTO if named else MatchType.PROTO_ONLY
        return MatchType.L3_L4 if named else MatchType.L4_ONLY


Group = Mapping[L4Key, PolicyEntry]
"""The entries of one direction for one peer."""


def precedence(
    level: int, *, deny: bool, passes: bool = False, proxied: bool = False, never_proxied: bool = False
) -> int:
    """One number to compare: 24 bits of inverted level, then the verdict.

    255 for deny, 254 for an allow that no proxy may come between, 2 for one through a proxy, 1 for a plain one, 0 for a pass.
    """
    verdict = _NEVER_PROXIED if never_proxied else _PROXY if proxied else _ALLOW
    return ((Level.DEFAULT - level) << _LEVEL_SHIFT) | (_DENY if deny else _PASS if passes else verdict)


def level_of(entry: PolicyEntry) -> int:
    """The level of an entry."""
    return Level.DEFAULT - (entry.precedence >> _LEVEL_SHIFT)


def at_level(entry: PolicyEntry, level: int) -> PolicyEntry:
    """The same verdict of the same rule at another level."""
    verdict = _DENY if entry.deny else max(entry.precedence & _VERDICT, _ALLOW)
    return entry._replace(precedence=(Level.DEFAULT - level) << _LEVEL_SHIFT | verdict)


def compile_group(parts: Iterable[tuple[Iterable[L4Key], PolicyEntry]]) -> Group:
    """The entries for one peer such that the longest matching key also has the highest precedence.

    Of equal keys the higher precedence stays, then the rule that sorts first; a key that a broader one of higher
    precedence covers is dropped.
    """
    group: dict[L4Key, PolicyEntry] = {}
    precedences = set()
    for keys, entry in parts:
        precedences.add(entry.precedence)
        for key in keys:
            known = group.get(key)
            if known is None or (-entry.precedence, entry.rule) < (-known.precedence, known.rule):
                group[key] = entry
    if len(precedences) < 2:
        return group
    return {key: entry for key, entry in group.items() if not _is_shadowed(key, entry, group)}


def _is_shadowed(key: L4Key, entry: PolicyEntry, group: Group) -> bool:
    return any(
        broader is not None and broader.precedence > entry.precedence
        for broader in (group.get(candidate) for candidate in broader(key))
    )


def broader(key: L4Key) -> Iterable[L4Key]:
    """The keys that cover this one, longest first, itself excluded."""
    if key.protocol == ANY_PROTOCOL:
        return
    for bits in range(key.bits - 1, -1, -1):
        yield L4Key(key.protocol, _masked(key.port, bits), bits)
    yield EVERYTHING


def _masked(port: int, bits: int) -> int:
    return port >> (PORT_BITS - bits) << (PORT_BITS - bits)


def find_longest(
    get: Callable[[L4Key], PolicyEntry | None], protocol: int, port: int
) -> tuple[L4Key, PolicyEntry] | None:
    """The longest key that matches, as the kernel's trie finds it."""
    for bits in range(PORT_BITS, -1, -1):
        key = L4Key(protocol, _masked(port, bits), bits)
        entry = get(key)
        if entry is not None:
            return key, entry
    entry = get(EVERYTHING)
    return None if entry is None else (EVERYTHING, entry)


def decide(
    direction: Direction,
    identity: int,
    named: tuple[L4Key, PolicyEntry] | None,
    anyone: tuple[L4Key, PolicyEntry] | None,
) -> Verdict:
    """Compare the hit for the peer's identity with the hit for any identity.

    Higher precedence wins, then the longer layer 4 part, then the one that names the identity.
    """
    best, winner = named, identity
    if anyone is not None and (named is None or _rank(anyone) > _rank(named)):
        best, winner = anyone, ANY_IDENTITY
    if best is None:
        return Verdict(allowed=False, key=None, entry=None)
    key, entry = best
    return Verdict(not entry.deny, EntryKey(direction, winner, *key), entry)


def _rank(hit: tuple[L4Key, PolicyEntry]) -> tuple[int, int]:
    key, entry = hit
    return entry.precedence, 0 if key.protocol == ANY_PROTOCOL else 8 + key.bits


def lookup(
    entries: Mapping[EntryKey, PolicyEntry], direction: Direction, identity: int, protocol: int, port: int
) -> Verdict:
    """What the kernel decides from an endpoint's map for a direction that is enforced: two longest-prefix lookups."""

    def search(peer: int) -> tuple[L4Key, PolicyEntry] | None:
        return find_longest(lambda key: entries.get(EntryKey(direction, peer, *key)), protocol, port)

    anyone = search(ANY_IDENTITY)
    return decide(direction, identity, search(identity) if identity != ANY_IDENTITY else None, anyone)
