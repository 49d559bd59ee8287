# SPDX-License-Identifier: Apache-2.0
"""Prefixes to the ipcache map."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress

from agent.comparison import compare_entries
from agent.datapath.layout import IpcacheKey, IpcacheValue
from agent.datapath.maps import Map
from agent.tables import Prefix
from meshapi.agent import MapDifference
from meshkit.isolation import apply_rows
from meshmodel.identity import UNKNOWN

NO_TUNNEL = "0.0.0.0"


def ipcache_value(row: Prefix) -> IpcacheValue:
    """What the kernel is told of a prefix: identity 0 until the identity's labels are known."""
    identity = row.identity if row.is_known else UNKNOWN
    return IpcacheValue(identity, row.tunnel or NO_TUNNEL, row.cluster_id, 0)


class IpcacheTarget:
    """The ipcache map as a reconciler's target; keys of failures are prefixes."""

    def __init__(self, ipcache: Map[IpcacheKey, IpcacheValue]) -> None:
        self._map = ipcache

    def update(self, rows: Sequence[Prefix]) -> Mapping[Hashable, Exception]:
        return apply_rows(rows, _prefix_of, self._write)

    def delete(self, rows: Sequence[Prefix]) -> Mapping[Hashable, Exception]:
        return apply_rows(rows, _prefix_of, self._remove)

    def prune(self, rows: Iterable[Prefix]) -> Collection[str]:
        """Nothing but these prefixes is left in the map; returns those that are missing there or say something else."""
        wanted = {row.prefix: row for row in rows}
        surplus: list[IpcacheKey] = []
        lost: list[str] = []
        for key, value in self._map.items():
            row = wanted.pop(key.prefix, None)
            if row is None:
                surplus.append(key)
            elif value != ipcache_value(row):
                lost.append(row.prefix)
        absent = {prefix: found for prefix in wanted if (found := _canonical(prefix)) is not None}
        spelled_otherwise = set(absent.values()).intersection(surplus)
        self._map.delete([key for key in surplus if key not in spelled_otherwise])
        return [*lost, *(prefix for prefix, found in absent.items() if found not in spelled_otherwise)]

    def _write(self, rows: Sequence[Prefix]) -> None:
        self._map.update([(IpcacheKey(row.prefix), ipcache_value(row)) for row in rows])

    def _remove(self, rows: Sequence[Prefix]) -> None:
        """What cannot be packed was never in the map: there is nothing to delete."""
        self._map.delete([key for row in rows if (key := _canonical(row.prefix)) is not None])


def compare_prefixes(ipcache: Map[IpcacheKey, IpcacheValue], rows: Iterable[Prefix]) -> list[MapDifference]:
    """Every entry of the map that is not as these rows say, and every row that no map can hold. Only reads."""
    wanted: dict[IpcacheKey, IpcacheValue] = {}
    found: list[MapDifference] = []
    for row in rows:
        key = _canonical(row.prefix)
        if key is None:
            found.append(MapDifference("ipcache", row.prefix, "no map can hold it"))
        else:
            wanted[key] = ipcache_value(row)
    return found + compare_entries("ipcache", wanted, {_canonical(k.prefix) or k: v for k, v in ipcache.items()})


def _prefix_of(row: Prefix) -> str:
    return row.prefix


def _canonical(prefix: str) -> IpcacheKey | None:
    """The key as the map gives it back; None for a prefix that no map can hold."""
    with suppress(ValueError):
        return IpcacheKey.unpack(IpcacheKey(prefix).pack())
    return None
