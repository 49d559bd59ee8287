# SPDX-License-Identifier: Apache-2.0
"""How much of one cluster is taken: records of each kind, bytes, and changes over time. Pure.

What is beyond a cap is not known at all, as if the cluster had not published it; which records that are depends on the order in
which the store tells them. It is counted, the first of it named, and looked for again by a new listing when there is room.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from meshmodel.keys import Kind

RECORDS: Final[Mapping[Kind, int]] = {
    Kind.NODES: 10_000,
    Kind.IDENTITIES: 65_536,
    Kind.IPS: 1_000_000,
    Kind.SERVICES: 200_000,
    Kind.ENDPOINT_SLICES: 500_000,
    Kind.SERVICE_EXPORTS: 200_000,
}
SIZE_BYTES: Final = 512 << 20
CHANGES_PER_S: Final = 1_000.0
CHANGES_BURST: Final = 2_000_000.0
BYTES_PER_S: Final = float(4 << 20)
FIRST_NAMES: Final = 10
ROOM_AGAIN: Final = 0.1
MAXIMUM_NAME: Final = 256


@dataclass(frozen=True, slots=True)
class Caps:
    """For one cluster. A burst of changes and bytes passes at once, the size of a first listing; then the rates hold.

    `record_bytes`: what a record takes beside its own length, where that is counted.
    """

    records: Mapping[Kind, int] = field(default_factory=lambda: RECORDS)
    size_bytes: float = SIZE_BYTES
    changes_per_s: float = CHANGES_PER_S
    changes_burst: float = CHANGES_BURST
    bytes_per_s: float = BYTES_PER_S
    record_bytes: int = 0


UNLIMITED: Final = Caps({}, math.inf, math.inf, math.inf, math.inf)


class Pool:
    """What all peers may use together: half of it in equal parts that are theirs, and the rest for who comes first.

    So nobody is left without any. Who has used the rest keeps it when there are more peers, and parts are smaller.
    """

    def __init__(self, limit: float = math.inf) -> None:
        self.limit = limit
        self._budgets: dict[Budget, Callable[[], None]] = {}
        self.part = self._rest = limit / 2
        self._beyond = 0.0

    def join(self, budget: Budget, on_room: Callable[[], None] = lambda: None) -> None:
        """One more peer. `on_room` is called when another one has given something back."""
        self._budgets[budget] = on_room
        self._share()

    def leave(self, budget: Budget) -> None:
        """It is no peer any more."""
        self._budgets.pop(budget, None)
        self._share()

    def room_of(self, budget: Budget) -> float:
        """How much more this peer may use."""
        return max(0.0, self.part - budget.used) + max(0.0, self._rest - self._beyond)

    def note(self, before: float, now: float) -> None:
        """A peer that used `before` uses `now`."""
        self._beyond += max(0.0, now - self.part) - max(0.0, before - self.part)
        if now < before:
            for on_room in list(self._budgets.values()):
                on_room()

    def _share(self) -> None:
        if self.limit < math.inf:
            self.part = self._rest / max(1, len(self._budgets))
            self._beyond = sum(max(0.0, budget.used - self.part) for budget in self._budgets)


class Budget:
    """So many bytes, or other `units`, one peer uses and may use; what it uses of a pool counts there too."""

    def __init__(self, limit: float = math.inf, pool: Pool | None = None, units: str = "bytes") -> None:
        self.limit, self.used, self._pool, self._units = limit, 0, pool, units
        if pool is not None:
            pool.join(self)

    @property
    def room(self) -> float:
        """How much more may be used."""
        own = self.limit - self.used
        return own if self._pool is None else min(own, self._pool.room_of(self))

    @property
    def has_room_again(self) -> bool:
        """Whether a tenth of what this peer may have in any case is free."""
        sure = self.limit if self._pool is None else min(self.limit, self._pool.part)
        return self.room >= sure * ROOM_AGAIN

    def limit_of(self, size: int) -> str:
        """Which limit so much more does not keep, in words."""
        if self._pool is not None and self.used + size <= self.limit:
            return f"{self._pool.limit:.0f} {self._units} of all peers"
        return f"{self.limit:.0f} {self._units}"

    def use(self, size: int) -> bool:
        """So much more is used, or false and nothing is; negative: it is free again."""
        if size > 0 and size > self.room:
            return False
        self.used += size
        if self._pool is not None:
            self._pool.note(self.used - size, self.used)
        return True

    def leave(self) -> None:
        """Whose it is is no peer any more."""
        if self._pool is not None:
            self._pool.leave(self)


@dataclass(slots=True)
class Dropped:
    """What was not taken since the listing began: how often, the first of it, and what would have been too much."""

    total: int = 0
    first: list[str] = field(default_factory=list)
    limit: str = ""

    def add(self, key: bytes, limit: str) -> None:
        self.total += 1
        self.limit = limit
        if len(self.first) < FIRST_NAMES:
            self.first.append(key[:MAXIMUM_NAME].decode("utf-8", "replace"))
