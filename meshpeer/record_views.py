# SPDX-License-Identifier: Apache-2.0
"""List, then watch, then sweep: what is known of one prefix. Pure.

Known keys are kept across reconnects. When a listing begins they become suspect; when it ends, the suspects that it did not
mention are gone. A value that did not change is not reported again. What is beyond the cluster's caps is not known at all.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Final

from kvstore.store import ChangeKind as Happened
from kvstore.store import Event
from meshmodel.keys import Kind
from meshpeer.caps import UNLIMITED, Budget, Caps, Dropped, Pool
from meshpeer.consumer import Change
from meshpeer.twins import Twins

_SIZE_BITS: Final = 24  # larger than any value a store takes
_SIZE: Final = (1 << _SIZE_BITS) - 1
_UNKNOWN: Final = -1 << _SIZE_BITS  # no hash of bytes is -1
ROOM_AGAIN: Final = 0.9


class View:
    """Keys without the prefix, each with a digest of its value and the size of both."""

    def __init__(self, maximum: float = math.inf, budget: Budget | None = None, record_bytes: int = 0) -> None:
        self._maximum, self._budget, self._record_bytes = maximum, budget or Budget(), record_bytes
        self._known: dict[bytes, int] = {}
        self._suspects: dict[bytes, None] = {}
        self.dropped = Dropped()

    def __contains__(self, key: object) -> bool:
        return key in self._known

    def __len__(self) -> int:
        return len(self._known)

    def begin_listing(self) -> None:
        """Everything known is suspect until it is mentioned."""
        self._suspects = dict.fromkeys(self._known)
        self.dropped = Dropped()

    @property
    def has_room_again(self) -> bool:
        """Whether something was dropped that a new listing might take now."""
        if not self.dropped.total:
            return False
        is_under = len(self._known) <= self._maximum * ROOM_AGAIN
        return is_under and self._budget.has_room_again

    def feed(self, events: Sequence[Event], cut: int) -> list[Change]:
        """What the events change, in their order; `cut` is the length of the prefix in front of every key."""
        known, suspects = self._known, self._suspects
        changes: list[Change] = []
        for kind, full, value, _ in events:
            key = full[cut:]
            suspects.pop(key, None)
            if kind is Happened.DELETE:
                if key in known:
                    self._forget(key)
                    changes.append((key, None))
                continue
            size = len(key) + len(value) + self._record_bytes
            digest = hash(value) << _SIZE_BITS | size
            old = known.get(key)
            if old == digest:
                continue
            is_new = old is None
            if is_new and len(known) >= self._maximum:
                self.dropped.add(key, f"{self._maximum:.0f} records")
            elif self._budget.use(more := size if old is None else size - (old & _SIZE)):
                known[key] = digest
                changes.append((key, value))
                continue
            else:
                self.dropped.add(key, self._budget.limit_of(more))
            if not is_new:  # what was known of it is not true any more
                self._forget(key)
                changes.append((key, None))
        return changes

    def _forget(self, key: bytes) -> None:
        self._budget.use(-(self._known.pop(key) & _SIZE))

    def take_gone(self, limit: int) -> list[Change]:
        """Some of what the finished listing did not mention, at most `limit`; empty when no more is left."""
        gone = list(islice(self._suspects, limit))
        for key in gone:
            del self._suspects[key]
            self._forget(key)
        return [(key, None) for key in gone]

    def doubt(self) -> None:
        """Every value counts as changed when it is seen next; keys stay known, so that a listing can sweep them."""
        self._known = {key: _UNKNOWN | digest & _SIZE for key, digest in self._known.items()}

    def suspect(self, changes: Iterable[Change]) -> None:
        """The consumer did not take these changes, or not all: every value counts as changed when it is seen next, and keys that
        were taken back are known again, so that the next listing sweeps them."""
        self.doubt()
        for key, value in changes:
            if value is None and key not in self._known:
                size = len(key) + self._record_bytes
                self._budget.use(size)
                self._known[key] = _UNKNOWN | size

    def release(self) -> None:
        """Nothing is known."""
        self._budget.use(-sum(digest & _SIZE for digest in self._known.values()))
        self._known.clear()
        self._suspects.clear()
        self.dropped = Dropped()


class RecordViews:
    """What is known of one cluster, by kind. The own cluster has a second, private part of some kinds.

    `wanted` kinds and `wanted_parts` of a kind (true: the private one) are to be listed again.
    """

    def __init__(self, caps: Caps = UNLIMITED, pool: Pool | None = None) -> None:
        """`pool`: of bytes that all peers use together."""
        self._caps, self._budget = caps, Budget(caps.size_bytes, pool)
        self._parts: dict[tuple[Kind, bool], View] = {}
        self._others: dict[str, Dropped] = {}
        self._twins: defaultdict[Kind, Twins] = defaultdict(Twins)
        self.wanted: set[Kind] = set()
        self.wanted_parts: set[tuple[Kind, bool]] = set()

    def part(self, kind: Kind, *, is_private: bool = False) -> View:
        view = self._parts.get((kind, is_private))
        if view is None:
            most, beside = self._caps.records.get(kind, math.inf), self._caps.record_bytes
            view = self._parts[kind, is_private] = View(most, self._budget, beside)
        return view

    def want_again(self, kind: Kind) -> None:
        """The consumer could not keep records of this kind, and can now: all of them are told again."""
        self.part(kind).doubt()
        self.wanted.add(kind)

    def note(self, what: str, dropped: Dropped) -> None:
        """The consumer did not keep everything either, in a place of this name."""
        self._others[what] = dropped

    def truncations(self) -> Mapping[str, Dropped]:
        """What was not taken, by kind or place; empty while everything is."""
        found = {str(kind): view.dropped for (kind, is_private), view in self._parts.items() if not is_private}
        return {what: dropped for what, dropped in sorted({**found, **self._others}.items()) if dropped.total}

    def due(self) -> tuple[Kind, ...]:
        """Kinds that a new listing would tell more of than is known."""
        found = {kind for (kind, is_private), view in self._parts.items() if not is_private and view.has_room_again}
        return tuple(sorted(found | self.wanted))

    def count(self, kind: Kind) -> int:
        return sum(len(view) for (found, _), view in self._parts.items() if found is kind)

    def begin_listing(self, kind: Kind, *, is_private: bool) -> None:
        """Everything known of the part is suspect until it is mentioned."""
        self.part(kind, is_private=is_private).begin_listing()
        if kind in self._twins:
            self._twins[kind].begin_listing(is_private=is_private)

    def settle_twins(
        self, kind: Kind, changes: list[Change], revisions: Mapping[bytes, int], *, is_private: bool
    ) -> list[Change]:
        """What is news of one part of a kind that has two; parts that have to be listed again are in `wanted_parts`."""
        other = self.part(kind, is_private=not is_private)
        news, is_other_due = self._twins[kind].settle(changes, revisions, other, is_private=is_private)
        if is_other_due:
            other.doubt()
            self.wanted_parts.add((kind, not is_private))
        return news

    def doubt(self) -> None:
        """Every value counts as changed when it is seen next."""
        for view in self._parts.values():
            view.doubt()

    def leave(self) -> None:
        """The cluster is no peer any more, and nothing of it is known."""
        self.keep(())
        self._budget.leave()

    def forget(self, kind: Kind) -> None:
        """Nothing is known of this kind: the next listing is the first one."""
        self._drop([part for part in self._parts if part[0] is kind])

    def keep(self, kinds: Iterable[Kind]) -> None:
        """Nothing is known of any other kind."""
        kept = set(kinds)
        self._drop([part for part in self._parts if part[0] not in kept])
        self.wanted &= kept

    def _drop(self, parts: Iterable[tuple[Kind, bool]]) -> None:
        for part in parts:
            self._parts.pop(part).release()
            self._twins.pop(part[0], None)
