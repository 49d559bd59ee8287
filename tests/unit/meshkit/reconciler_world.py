# SPDX-License-Identifier: Apache-2.0
"""A table, a target that fails on request, and a reconciler between them."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from meshkit.clock import ManualClock
from meshkit.errors import ExhaustedError
from meshkit.reconciler import Reconciler, Rows
from meshkit.table import Database, Table


class Row(NamedTuple):
    name: str
    value: int


class FakeTarget:
    """A target that remembers what it holds and fails where it is told to."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {}
        self.failing: set[str] = set()
        self.room = 1_000_000
        self.lost: tuple[str, ...] = ()
        self.lost_a_step = 1000
        self.is_down = False
        self.is_prune_down = False
        self.calls: list[str] = []

    def update(self, rows: Sequence[Row]) -> Mapping[str, Exception]:
        self._enter("update", rows)
        failures: dict[str, Exception] = {r.name: OSError("full") for r in rows if r.name in self.failing}
        for row in rows:
            if row.name not in self.held and len(self.held) >= self.room:
                failures[row.name] = ExhaustedError("no room")
            elif row.name not in failures:
                self.held[row.name] = row.value
        return failures

    def delete(self, rows: Sequence[Row]) -> Mapping[str, Exception]:
        self._enter("delete", rows)
        for row in rows:
            if row.name not in self.failing:
                self.held.pop(row.name, None)
        return {r.name: OSError("busy") for r in rows if r.name in self.failing}

    def prune(self, rows: Rows[str, Row]) -> Iterator[Collection[str]]:
        self._enter("prune", [])
        if self.is_prune_down:
            raise OSError("prune refused")
        wanted = set(rows.keys())
        self.held = {name: value for name, value in self.held.items() if name in wanted}
        while self.lost:
            lost, self.lost = self.lost[: self.lost_a_step], self.lost[self.lost_a_step :]
            yield lost

    def _enter(self, verb: str, rows: Sequence[Row]) -> None:
        self.calls.append(f"{verb} {','.join(r.name for r in rows)}".strip())
        if self.is_down:
            raise OSError("target is down")


class World:
    def __init__(self, round_size: int = 10, prune_interval_s: float | None = None) -> None:
        self.db = Database()
        self.table: Table[str, Row] = Table(self.db, "rows", key=lambda r: r.name)
        self.target = FakeTarget()
        self.clock = ManualClock()
        self.reconciler: Reconciler[str, Row] = Reconciler(
            self.table,
            self.target,
            clock=self.clock,
            round_size=round_size,
            prune_interval_s=prune_interval_s,
            rng=random.Random(7),
        )

    def put(self, **rows: int) -> None:
        with self.db.write():
            for name, value in rows.items():
                self.table.put(Row(name, value))

    def delete(self, *names: str) -> None:
        with self.db.write():
            for name in names:
                self.table.delete(name)
