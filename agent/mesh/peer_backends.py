# SPDX-License-Identifier: Apache-2.0
"""Which backends of one cluster's records are taken: those that it may speak for, while all together are not too many. Pure.

A few kilobytes of a record may mean thousands of backends, so that a cap on bytes bounds no memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from agent.mesh.networks import ClaimRefusal, Networks
from agent.tables import Backend
from meshmodel.errors import RecordError
from meshmodel.keys import Kind
from meshmodel.names import ClusterName
from meshpeer.caps import Dropped

MAXIMUM_BACKENDS: Final = 2_000_000
"""Addresses times ports, of all services of a peer: 300 MB."""
ROOM_AGAIN: Final = 0.9

Taken = tuple[tuple[Backend, ...], list[ClaimRefusal]]


class PeerBackends:
    """Counts them by record; the own cluster's are not bounded, and always believed."""

    def __init__(self, name: ClusterName, own: ClusterName, networks: Networks) -> None:
        self._name, self._is_own, self._networks = name, name == own, networks
        self.maximum: float = math.inf if name == own else MAXIMUM_BACKENDS
        self.count = 0
        self._counts: dict[tuple[Kind, str], int] = {}
        self._dropped, self._crowded_out = Dropped(), set[Kind]()
        self._smallest = math.inf  # of those that found no room
        self.on_crowded: Callable[[Dropped], None] = lambda _dropped: None
        """Told what found no room since there was some, each time; of nothing when all are told again."""
        self.on_room: Callable[[frozenset[Kind]], None] = lambda _kinds: None
        """Records of these kinds might find room that did not."""

    def believable(self, backends: tuple[Backend, ...]) -> Taken:
        """The backends whose addresses the cluster may speak for, and what was refused: one bad one costs one."""
        refuse, name = self._networks.refuse_address, self._name
        if self._is_own or self._networks.may_have_all(name, [b.address for b in backends]):
            return backends, []
        refusals = [refusal for b in backends if (refusal := refuse(name, b.address)) is not None]
        if not refusals:
            return backends, []
        return tuple(b for b in backends if refuse(name, b.address) is None), refusals

    def take(self, kind: Kind, key: str, backends: tuple[Backend, ...]) -> Taken:
        """The record has these backends from now on. Raises: RecordError when there is no room for them; then it has none."""
        kept, refusals = self.believable(backends)
        others = self.count - self._counts.get((kind, key), 0)
        if others + len(kept) > self.maximum:
            self._dropped.add(f"{kind}/{key}".encode(), f"{self.maximum:.0f} backends")
            self._crowded_out.add(kind)
            self._smallest = min(self._smallest, len(kept))
            self.on_crowded(self._dropped)
            raise RecordError(key, "too-many-backends", f"{others} backends are known, {self.maximum:.0f} are accepted")
        self._set(kind, key, len(kept))
        return kept, refusals

    def give_back(self, kind: Kind, key: str) -> None:
        """The record is not there any more."""
        self._set(kind, key, 0)

    def clear(self) -> None:
        """No record is there any more, and all are told again."""
        self.count = 0
        self._counts.clear()
        if self._crowded_out:
            self._forget_crowded()
            self.on_crowded(self._dropped)

    def _set(self, kind: Kind, key: str, count: int) -> None:
        self.count += count - self._counts.pop((kind, key), 0)
        if count:
            self._counts[kind, key] = count
        self._let_in_again()

    def _let_in_again(self) -> None:
        is_under = self.count <= self.maximum * ROOM_AGAIN
        if self._crowded_out and is_under and self.count + self._smallest <= self.maximum:
            kinds = frozenset(self._crowded_out)
            self._forget_crowded()
            self.on_room(kinds)

    def _forget_crowded(self) -> None:
        self._crowded_out, self._dropped, self._smallest = set(), Dropped(), math.inf
