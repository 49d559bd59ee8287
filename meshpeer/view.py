# SPDX-License-Identifier: Apache-2.0
"""List, then watch, then sweep: what is known of one prefix. Pure.

Known keys are kept across reconnects. When a listing begins they become suspect; when it ends, the suspects that it did not
mention are gone. A value that did not change is not reported again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from kvstore.store import Event
from kvstore.store import Kind as Happened
from meshmodel.keys import Kind
from meshpeer.consumer import Change


class View:
    """Keys without the prefix, each with a digest of its value."""

    def __init__(self) -> None:
        self._known: dict[bytes, int | None] = {}
        self._suspects: dict[bytes, None] = {}

    def __contains__(self, key: bytes) -> bool:
        return key in self._known

    def __len__(self) -> int:
        return len(self._known)

    def begin_listing(self) -> None:
        """Everything known is suspect until it is mentioned."""
        self._suspects = dict.fromkeys(self._known)

    def feed(self, events: Sequence[Event], cut: int) -> list[Change]:
        """What the events change, in their order; `cut` is the length of the prefix in front of every key."""
        known, suspects = self._known, self._suspects
        changes: list[Change] = []
        for kind, full, value, _ in events:
            key = full[cut:]
            suspects.pop(key, None)
            if kind is Happened.DELETE:
                if key in known:
                    del known[key]
                    changes.append((key, None))
                continue
            digest = hash(value)
            if known.get(key) != digest:
                known[key] = digest
                changes.append((key, value))
        return changes

    def take_gone(self, limit: int) -> list[Change]:
        """Some of what the finished listing did not mention, at most `limit`; empty when no more is left."""
        gone = list(islice(self._suspects, limit))
        for key in gone:
            del self._suspects[key], self._known[key]
        return [(key, None) for key in gone]

    def doubt(self) -> None:
        """Every value counts as changed when it is seen next; keys stay known, so that a listing can sweep them."""
        self._known = dict.fromkeys(self._known)


class Views:
    """What is known of one cluster, by kind. The own cluster has a second, private part of some kinds.

    A key that is gone from one part and stands in the other is not gone.
    """

    def __init__(self) -> None:
        self._parts: dict[tuple[Kind, bool], View] = {}

    def part(self, kind: Kind, *, is_private: bool = False) -> View:
        return self._parts.setdefault((kind, is_private), View())

    def count(self, kind: Kind) -> int:
        return sum(len(view) for (found, _), view in self._parts.items() if found is kind)

    def without_twins(self, kind: Kind, changes: list[Change], *, is_private: bool) -> list[Change]:
        """The changes without removals of keys that the other part has."""
        other = self._parts.get((kind, not is_private))
        if other is None:
            return changes
        return [change for change in changes if change[1] is not None or change[0] not in other]

    def doubt(self) -> None:
        """Every value counts as changed when it is seen next."""
        for view in self._parts.values():
            view.doubt()

    def forget(self, kind: Kind) -> None:
        """Nothing is known of this kind: the next listing is the first one."""
        self._parts = {part: view for part, view in self._parts.items() if part[0] is not kind}

    def keep(self, kinds: Iterable[Kind]) -> None:
        """Nothing is known of any other kind."""
        kept = set(kinds)
        self._parts = {part: view for part, view in self._parts.items() if part[0] in kept}
