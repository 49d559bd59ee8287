# SPDX-License-Identifier: Apache-2.0
"""How many parts, such as backends or networks, the records of one cluster may have together, and what finds no room. Pure.

A few kilobytes of a record may mean thousands of parts, so that a cap on bytes bounds no memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

from agent.tables import Node
from meshmodel.errors import RecordError
from meshmodel.keys import Kind
from meshpeer.caps import Budget, Dropped, Pool

ROOM_AGAIN: Final = 0.9
MAXIMUM_BACKENDS: Final = 2_000_000
"""Addresses times ports, of all services of a peer: 300 MB."""
MAXIMUM_NETWORKS: Final = 200_000
"""Of pods, that all node records of a peer name together."""


class SharedRoom(NamedTuple):
    """So many parts for the records of all peers together, and for those of one at most."""

    pool: Pool
    of_one: float

    @classmethod
    def of(cls, total: float, of_one: float) -> SharedRoom:
        return cls(Pool(total), of_one)


class PeerRooms(NamedTuple):
    """What all peers have together."""

    backends: SharedRoom
    networks: SharedRoom

    @classmethod
    def usual(cls) -> PeerRooms:
        """Without a limit for all together."""
        return cls(SharedRoom.of(math.inf, MAXIMUM_BACKENDS), SharedRoom.of(math.inf, MAXIMUM_NETWORKS))


class RecordRoom:
    """Counts parts by record. `what` is their name; `shared` counts those of all peers, and of none of the own cluster's."""

    def __init__(self, what: str, shared: SharedRoom | None) -> None:
        self.what, self._pool = what, None if shared is None else shared.pool
        self._budget = Budget(math.inf if shared is None else shared.of_one, self._pool, what)
        if self._pool is not None:
            self._pool.join(self._budget, self._look_again)
        self._counts: dict[tuple[Kind, str], int] = {}
        self._dropped, self._crowded_out = Dropped(), set[Kind]()
        self._smallest = math.inf  # of those that found no room
        self.on_crowded: Callable[[Dropped], None] = lambda _dropped: None
        """Told what found no room since there was some, each time; of nothing when all are told again."""
        self.on_room: Callable[[frozenset[Kind]], None] = lambda _kinds: None
        """Records of these kinds might find room that did not."""

    @property
    def count(self) -> int:
        return self._budget.used

    def take(self, kind: Kind, key: str, count: int) -> None:
        """The record has so many parts from now on. Raises: RecordError when there is no room for them; then it is to go."""
        more = count - self._counts.get((kind, key), 0)
        if more > 0 and more > self._budget.room:
            limit = self._budget.limit_of(more)
            self._dropped.add(f"{kind}/{key}".encode(), limit)
            self._crowded_out.add(kind)
            self._smallest = min(self._smallest, count)
            self.on_crowded(self._dropped)
            raise RecordError(key, f"too-many-{self.what}", f"{self.count} are known, {limit} are accepted")
        self._set(kind, key, count)

    def give_back(self, kind: Kind, key: str) -> None:
        """The record is not there any more."""
        self._set(kind, key, 0)

    def clear(self) -> None:
        """No record is there any more, and all are told again."""
        self._counts.clear()
        self._budget.use(-self.count)
        if self._crowded_out:
            self._forget_crowded()
            self.on_crowded(self._dropped)

    def leave(self) -> None:
        """The cluster is no peer any more, and has no record."""
        self._budget.leave()

    def _set(self, kind: Kind, key: str, count: int) -> None:
        more = count - self._counts.pop((kind, key), 0)
        if count:
            self._counts[kind, key] = count
        self._budget.use(more)
        self._look_again()

    def _look_again(self) -> None:
        """What found no room is told again where there is some."""
        if not self._crowded_out or self._budget.room < self._smallest:
            return
        if self.count <= self._budget.limit * ROOM_AGAIN:
            kinds = frozenset(self._crowded_out)
            self._forget_crowded()
            self.on_room(kinds)

    def _forget_crowded(self) -> None:
        self._dropped, self._crowded_out, self._smallest = Dropped(), set(), math.inf


class NodeNetworks(RecordRoom):
    """Networks of pods, by node record. The own cluster's are not bounded."""

    def __init__(self, shared: SharedRoom | None) -> None:
        super().__init__("networks", shared)

    def fitting(self, key: str, node: Node) -> Node:
        """The node has these networks from now on. Raises: RecordError when there is no room for them; then it is to go."""
        self.take(Kind.NODES, key, len(node.pod_cidrs))
        return node
