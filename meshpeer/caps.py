# SPDX-License-Identifier: Apache-2.0
"""How much of one cluster is taken: records of each kind, bytes, and changes over time. Pure.

What is beyond a cap is not known at all, as if the cluster had not published it; which records that are depends on the order in
which the store tells them. It is counted, the first of it named, and looked for again by a new listing when there is room.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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
MAXIMUM_NAME: Final = 256


@dataclass(frozen=True, slots=True)
class Caps:
    """For one cluster. A burst of changes and bytes passes at once, the size of a first listing; then the rates hold."""

    records: Mapping[Kind, int] = field(default_factory=lambda: RECORDS)
    size_bytes: float = SIZE_BYTES
    changes_per_s: float = CHANGES_PER_S
    changes_burst: float = CHANGES_BURST
    bytes_per_s: float = BYTES_PER_S


UNLIMITED: Final = Caps({}, math.inf, math.inf, math.inf, math.inf)


class Budget:
    """Bytes that are used and may be used; with `shared`, the same bytes count there too."""

    def __init__(self, limit_bytes: float = math.inf, shared: Budget | None = None) -> None:
        self.limit_bytes, self.used_bytes, self._shared = limit_bytes, 0, shared

    @property
    def room_bytes(self) -> float:
        """How many more bytes may be used."""
        own = self.limit_bytes - self.used_bytes
        return own if self._shared is None else min(own, self._shared.room_bytes)

    def use(self, size_bytes: int) -> bool:
        """So many more bytes are used, or false and none are; negative: they are free again."""
        if self.used_bytes + size_bytes > self.limit_bytes and size_bytes > 0:
            return False
        if self._shared is not None and not self._shared.use(size_bytes):
            return False
        self.used_bytes += size_bytes
        return True


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
