# SPDX-License-Identifier: Apache-2.0
"""The entries for a peer of which Admin rules pass something on to the next tier.

A trie finds one entry and has no way to go on from it. So everything is decided here: each key gets the verdict of the
packets that match it and no longer key, and the group of such a peer answers for rules that name everybody too. What a
rule passed on stands at the level of that rule, so that no entry for everybody beats it. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from meshpolicy.mapstate import Group, PolicyEntry, at_level, broader, level_of
from meshpolicy.port import ANY_PROTOCOL, L4Key
from meshpolicy.tier import PASSED_LEVELS, Level


class Part(NamedTuple):
    """What one rule, or the default, says to the peer."""

    keys: tuple[L4Key, ...]
    entry: PolicyEntry
    passes: bool = False
    names_peer: bool = False


class _Hit(NamedTuple):
    part: Part
    key: L4Key


class _Decided(NamedTuple):
    entry: PolicyEntry
    passed_at: int | None
    """The level of the Admin rule that passed the packet on; None if none did."""


def compile_passed_group(parts: Iterable[Part]) -> Group:
    """The entries for one peer. One of the parts, the default, is about every packet and passes nothing."""
    by_key: dict[L4Key, list[Part]] = {}
    for part in parts:
        for key in part.keys:
            by_key.setdefault(key, []).append(part)
    decided = {key: _decide(key, by_key) for key in by_key}
    return _without_repeats(_ranked(decided))


def _decide(key: L4Key, by_key: dict[L4Key, list[Part]]) -> _Decided:
    hits = [_Hit(part, known) for known in (key, *broader(key)) for part in by_key.get(known, ())]
    best = _best(hits)
    if not best.part.passes:
        return _Decided(best.part.entry, None)
    rest = [hit for hit in hits if level_of(hit.part.entry) >= Level.NORMAL]
    return _Decided(_best(rest).part.entry, level_of(best.part.entry))


def _best(hits: Iterable[_Hit]) -> _Hit:
    """The highest precedence; of these the longest key, then one that names the peer, then the first by name."""
    return min(
        hits, key=lambda h: (-h.part.entry.precedence, -_length(h.key), not h.part.names_peer, h.part.entry.rule)
    )


def _length(key: L4Key) -> int:
    return 0 if key.protocol == ANY_PROTOCOL else 8 + key.bits


def _ranked(decided: dict[L4Key, _Decided]) -> dict[L4Key, PolicyEntry]:
    """The entries; what was passed on stands below the rule that passed it, in the order of its own levels.

    So a longer key never has the lower precedence, which the order of map writes relies on.
    """
    levels = {level_of(item.entry) for item in decided.values() if item.passed_at is not None}
    rank = {level: min(index, PASSED_LEVELS - 1) for index, level in enumerate(sorted(levels))}
    return {
        key: item.entry if item.passed_at is None else at_level(item.entry, item.passed_at + rank[level_of(item.entry)])
        for key, item in decided.items()
    }


def _without_repeats(entries: dict[L4Key, PolicyEntry]) -> Group:
    """Without keys that say what the next broader one says."""
    kept: dict[L4Key, PolicyEntry] = {}
    for key in sorted(entries, key=_length):
        above = next((kept[known] for known in broader(key) if known in kept), None)
        if above != entries[key]:
            kept[key] = entries[key]
    return kept
