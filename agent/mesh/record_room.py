# SPDX-License-Identifier: Apache-2.0
"""How many parts, such as backends or networks, the records of one cluster may have together, and what finds no room. Pure.

A few kilobytes of a record may mean thousands of parts, so that a cap on bytes bounds no memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from agent.tables import Node
from meshmodel.errors import RecordError
from meshmodel.keys import Kind
from meshpeer.caps import Dropped

ROOM_AGAIN: Final = 0.9
MAXIMUM_NETWORKS: Final = 200_000
"""Of pods, that all node records of a peer name together."""


class RecordRoom:
    """Counts parts by record. `what` is their name."""

    def __init__(self, what: str, maximum: float) -> None:
        self.what, self._maximum, self.count = what, maximum, 0
        self._counts: dict[tuple[Kind, str], int] = {}
        self._dropped, self._crowded_out = Dropped(), set[Kind]()
        self._smallest = math.inf  # of those that found no room
        self.on_crowded: Callable[[Dropped], None] = lambda _dropped: None
        """Told what found no room since there was some, each time; of nothing when all are told again."""
        self.on_room: Callable[[frozenset[Kind]], None] = lambda _kinds: None
        """Records of these kinds might find room that did not."""

    def take(self, kind: Kind, key: str, count: int) -> None:
        """The record has so many parts from now on. Raises: RecordError when there is no room for them; then it is to go."""
        others = self.count - self._counts.get((kind, key), 0)
        if others + count > self._maximum:
            self._dropped.add(f"{kind}/{key}".encode(), f"{self._maximum:.0f} {self.what}")
            self._crowded_out.add(kind)
            self._smallest = min(self._smallest, count)
            self.on_crowded(self._dropped)
            told = f"{others} {self.what} are known, {self._maximum:.0f} are accepted"
            raise RecordError(key, f"too-many-{self.what}", told)
        self._set(kind, key, count)

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
        is_under = self.count <= self._maximum * ROOM_AGAIN
        if self._crowded_out and is_under and self.count + self._smallest <= self._maximum:
            kinds = frozenset(self._crowded_out)
            self._forget_crowded()
            self.on_room(kinds)

    def _forget_crowded(self) -> None:
        self._dropped, self._crowded_out, self._smallest = Dropped(), set(), math.inf


class NodeNetworks(RecordRoom):
    """Networks of pods, by node record. The own cluster's are not bounded."""

    def __init__(self, *, is_own: bool) -> None:
        super().__init__("networks", math.inf if is_own else MAXIMUM_NETWORKS)

    def fitting(self, key: str, node: Node) -> Node:
        """The node has these networks from now on. Raises: RecordError when there is no room for them; then it is to go."""
        self.take(Kind.NODES, key, len(node.pod_cidrs))
        return node
