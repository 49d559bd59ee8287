# SPDX-License-Identifier: Apache-2.0
"""Prefixes to the ipcache map."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final

from agent.comparison import compare_entries
from agent.datapath.layout import IpcacheKey, IpcacheValue
from agent.datapath.maps import Map
from agent.datapath.spec import IPCACHE
from agent.tables import Prefix
from meshapi.agent import MapDifference
from meshkit.errors import ExhaustedError
from meshkit.isolation import apply_rows
from meshkit.parts import in_parts
from meshkit.reconciler import Rows
from meshmodel.identity import UNKNOWN
from meshmodel.names import ClusterName

NO_TUNNEL = "0.0.0.0"
NOBODY: Final = ClusterName("")
PART: Final = 2000  # prefixes compared at a time
PEERS_SHARE: Final = 0.5
"""Of the map, that the prefixes of all peers may have together: the own cluster's pods and policies always find room."""


class PeersFullError(ExhaustedError):
    """The prefixes of peers have what they may have of the map."""


def ipcache_value(row: Prefix) -> IpcacheValue:
    """What the kernel is told of a prefix: identity 0 until the identity's labels are known."""
    identity = row.identity if row.is_known else UNKNOWN
    return IpcacheValue(identity, row.tunnel or NO_TUNNEL, row.cluster_id, 0)


class IpcacheTarget:
    """The ipcache map as a reconciler's target; keys of failures are prefixes. `own`: the cluster that may use all of it."""

    def __init__(self, ipcache: Map[IpcacheKey, IpcacheValue], own: ClusterName = NOBODY, entries: int = 0) -> None:
        self._map, self._own = ipcache, own
        self._most_of_peers = int((entries or IPCACHE.max_entries) * PEERS_SHARE)
        self._of_peers: set[str] = set()  # written by this agent
        self._touched: set[str] | None = None  # prefixes as the map has them, written while a prune is under way

    def update(self, rows: Sequence[Prefix]) -> Mapping[Hashable, Exception]:
        fitting, failures = self._fitting(rows)
        failures |= apply_rows(fitting, _prefix_of, self._write)
        for row in fitting:
            is_there = row.cluster != self._own and row.prefix not in failures
            (self._of_peers.add if is_there else self._of_peers.discard)(row.prefix)
        return failures

    def _fitting(self, rows: Sequence[Prefix]) -> tuple[Sequence[Prefix], dict[Hashable, Exception]]:
        """The rows that may be written. The others are not in the map, whatever it said of their prefixes before."""
        of_peers = [row for row in rows if row.cluster != self._own and row.prefix not in self._of_peers]
        beyond = of_peers[max(0, self._most_of_peers - len(self._of_peers)) :]
        if not beyond:
            return rows, {}
        error = PeersFullError(
            f"peers have {self._most_of_peers} prefixes of the address map together, and no room for more"
        )
        failures: dict[Hashable, Exception] = {row.prefix: error for row in beyond}
        fitting = [row for row in rows if row.prefix not in failures]
        return fitting, failures | apply_rows(beyond, _prefix_of, self._remove)

    def delete(self, rows: Sequence[Prefix]) -> Mapping[Hashable, Exception]:
        self._of_peers.difference_update(row.prefix for row in rows)
        return apply_rows(rows, _prefix_of, self._remove)

    def prune(self, rows: Rows[str, Prefix]) -> Iterator[Collection[str]]:
        """Nothing but these prefixes is left in the map; names those that are missing there or say something else.

        What is written between two steps is right, whatever an older look at the map said.
        """
        touched: set[str] = set()
        self._touched = touched
        try:
            yield from self._compare(rows, touched)
        finally:
            self._touched = None

    def _compare(self, rows: Rows[str, Prefix], touched: Collection[str]) -> Iterator[Collection[str]]:
        seen: set[str] = set()
        surplus: list[IpcacheKey] = []
        for part in in_parts(self._map.items(), PART):
            lost: list[str] = []
            for key, value in part:
                row = rows.get(key.prefix)
                if row is None:
                    surplus.append(key)
                    continue
                seen.add(key.prefix)
                if key.prefix not in touched and value != ipcache_value(row):
                    lost.append(key.prefix)
            yield lost
        spelled_otherwise: set[IpcacheKey] = set()
        strange = set(surplus)
        for prefixes in in_parts(list(rows.keys()), PART):
            absent = [p for p in prefixes if p not in seen and p not in touched and rows.get(p) is not None]
            found = {prefix: made for prefix in absent if (made := _canonical(prefix)) is not None}
            spelled_otherwise |= strange.intersection(found.values())
            yield [prefix for prefix, made in found.items() if made not in strange]
        for keys in in_parts(surplus, PART):
            doomed = [k for k in keys if k not in spelled_otherwise and k.prefix not in touched]
            self._map.delete([key for key in doomed if rows.get(key.prefix) is None])
            yield ()

    def _write(self, rows: Sequence[Prefix]) -> None:
        self._map.update([(IpcacheKey(row.prefix), ipcache_value(row)) for row in rows])
        if self._touched is not None:
            self._touched.update(row.prefix for row in rows)
            self._touched.update(key.prefix for row in rows if (key := _canonical(row.prefix)) is not None)

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
