# SPDX-License-Identifier: Apache-2.0
"""Prefixes to the ipcache map."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

from agent.datapath.layout import IpcacheKey, IpcacheValue
from agent.datapath.maps import Map
from agent.tables import UNKNOWN_IDENTITY, Prefix

NO_TUNNEL = "0.0.0.0"


def ipcache_value(row: Prefix) -> IpcacheValue:
    """What the kernel is told of a prefix: identity 0 until the identity's labels are known."""
    identity = row.identity if row.is_known else UNKNOWN_IDENTITY
    return IpcacheValue(identity, row.tunnel or NO_TUNNEL, row.cluster_id, 0)


class IpcacheTarget:
    """The ipcache map as a reconciler's target; keys of failures are prefixes."""

    def __init__(self, ipcache: Map[IpcacheKey, IpcacheValue]) -> None:
        self._map = ipcache

    def update(self, rows: Sequence[Prefix]) -> Mapping[Hashable, Exception]:
        return _by_halves(
            rows, lambda some: self._map.update([(IpcacheKey(row.prefix), ipcache_value(row)) for row in some])
        )

    def delete(self, rows: Sequence[Prefix]) -> Mapping[Hashable, Exception]:
        return _by_halves(rows, lambda some: self._map.delete([IpcacheKey(row.prefix) for row in some]))

    def prune(self, rows: Iterable[Prefix]) -> None:
        """Nothing but these prefixes is left in the map."""
        wanted = {row.prefix for row in rows}
        surplus = [key for key, _ in self._map.items() if key.prefix not in wanted]
        if surplus:
            self._map.delete(surplus)


def _by_halves(rows: Sequence[Prefix], write: Callable[[Sequence[Prefix]], None]) -> Mapping[Hashable, Exception]:
    """All rows are written but those that cannot be; these are found by halving, so that one costs few more calls."""
    try:
        write(rows)
    except Exception as exc:  # a row is an item: whatever is wrong with it stays with it
        if len(rows) == 1:
            return {rows[0].prefix: exc}
        middle = len(rows) // 2
        return {**_by_halves(rows[:middle], write), **_by_halves(rows[middle:], write)}
    return {}
