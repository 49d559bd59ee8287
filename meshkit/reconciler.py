# SPDX-License-Identifier: Apache-2.0
"""Drive a target towards a table, one bounded round at a time.

Level-triggered: a round looks at the rows as they are now, so a row that changed twice is written once. A failed row is
tried again with its own back-off and holds nobody up. What the table does not want is pruned once every source of the
table has finished its first listing, and again at every prune interval.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import random
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from meshkit.backoff import Backoff
from meshkit.clock import Clock, SystemClock
from meshkit.errors import MeshError
from meshkit.table import HistoryLostError, Table
from meshkit.wake import wait_for_ring

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")
R_contra = TypeVar("R_contra", contravariant=True)

ROUND_SIZE: Final = 1000
PRUNE_INTERVAL_S: Final = 1800.0
STATUS_FAILURES: Final = 20


class Target(Protocol[R_contra]):
    """What is driven: three idempotent verbs over whole rows.

    `update` and `delete` return the failures by primary key (empty: all done); deleting what is absent is success. An
    exception fails the whole batch. `prune` removes everything that belongs to none of the rows.
    """

    def update(self, rows: Sequence[R_contra]) -> Mapping[Any, Exception]: ...

    def delete(self, rows: Sequence[R_contra]) -> Mapping[Any, Exception]: ...

    def prune(self, rows: Iterable[R_contra]) -> None: ...


class Outcome(NamedTuple):
    """What one round did, and when the next is due in monotonic seconds (None: when the table changes)."""

    wake_at: float | None
    done: int
    failed: int


class Failure(NamedTuple):
    """A row that is not in the target as it should be; `retry_at` is in monotonic seconds."""

    key: Hashable
    error: str
    attempts: int
    retry_at: float


class ReconcilerStatus(NamedTuple):
    """Where a reconciler stands; `failures` shows the first few of `failed` by key."""

    name: str
    pending: int
    failed: int
    done_total: int
    failed_total: int
    is_pruned: bool
    prune_error: str
    waiting_for: tuple[str, ...]
    failures: tuple[Failure, ...]

    @property
    def is_settled(self) -> bool:
        """The target holds what the table says, as far as this reconciler knows."""
        return not self.pending and not self.failed and not self.prune_error


class _Retry(Generic[R]):
    __slots__ = ("at", "attempts", "backoff", "error", "row")

    def __init__(self, row: R, backoff: Backoff) -> None:
        self.row, self.backoff = row, backoff
        self.attempts, self.at = 0, 0.0
        self.error: Exception | None = None


class Reconciler(Generic[K, R]):
    """`run_once(now)` is the whole machine and owns neither clock nor task; `run` is the task around it."""

    def __init__(
        self,
        table: Table[K, R],
        target: Target[R],
        *,
        clock: Clock | None = None,
        name: str = "",
        round_size: int = ROUND_SIZE,
        retry_minimum_s: float = 0.1,
        retry_maximum_s: float = 60.0,
        prune_interval_s: float | None = PRUNE_INTERVAL_S,
        rng: random.Random | None = None,
        on_outcome: Callable[[Outcome], None] | None = None,
    ) -> None:
        self.name = name or table.name
        self._table, self._target = table, target
        self._clock: Clock = clock or SystemClock()
        self._round_size = round_size
        self._retry_s, self._rng = (retry_minimum_s, retry_maximum_s), rng or random.Random()
        self._prune_interval_s, self._on_outcome = prune_interval_s, on_outcome
        self._seen = 0
        self._pending: dict[K, R] = {}  # in the order of change; the row matters only if it is deleted by then
        self._retries: dict[K, _Retry[R]] = {}
        self._due: list[tuple[float, int, K]] = []  # heap; entries whose retry moved on are ignored
        self._sequence = 0
        self._prune_at: float | None = 0.0
        self._prune_backoff = self._new_backoff()
        self._is_pruned, self._prune_error = False, ""
        self._done_total = self._failed_total = 0

    async def run(self) -> None:
        """Runs for ever. Between two rounds every other task of the loop gets its turn."""
        while True:
            rung = self._table.changed.count
            outcome = self.run_once(self._clock.monotonic())
            if self._on_outcome is not None:
                self._on_outcome(outcome)
            if outcome.wake_at is None:
                await self._table.changed.wait(rung)
                continue
            delay_s = outcome.wake_at - self._clock.monotonic()
            if delay_s <= 0:
                await asyncio.sleep(0)
            else:
                await wait_for_ring(self._table.changed, rung, delay_s, self._clock)

    def run_once(self, now: float) -> Outcome:
        """One round: at most `round_size` rows deleted or updated, then perhaps a prune."""
        self._gather()
        gone: dict[K, R] = {}
        wanted: dict[K, R] = {}
        for key, last in self._take(now):
            row = self._table.get(key)
            if row is None:
                gone[key] = last
            else:
                wanted[key] = row
        failed = self._apply(self._target.delete, gone, now) + self._apply(self._target.update, wanted, now)
        if not self._pending:
            self._prune_if_due(now)
        return Outcome(self._wake_at(now), len(gone) + len(wanted) - failed, failed)

    def prune_soon(self) -> None:
        """The next round that finds nothing pending prunes, if the table is initialized."""
        self._prune_at = 0.0
        self._table.changed.set()

    def status(self) -> ReconcilerStatus:
        """Where it stands now, counting changes that no round has seen yet."""
        self._gather()
        first = heapq.nsmallest(STATUS_FAILURES, self._retries.items(), key=lambda item: str(item[0]))
        return ReconcilerStatus(
            name=self.name,
            pending=len(self._pending),
            failed=len(self._retries),
            done_total=self._done_total,
            failed_total=self._failed_total,
            is_pruned=self._is_pruned,
            prune_error=self._prune_error,
            waiting_for=self._table.waiting_for,
            failures=tuple(Failure(key, repr(r.error)[:256], r.attempts, r.at) for key, r in first),
        )

    def dump(self) -> str:
        """The status as text without times; equal states give equal text."""
        s = self.status()
        head = f"reconciler {s.name} pending={s.pending} failed={s.failed} pruned={'yes' if s.is_pruned else 'no'}"
        lines = [head + (f" prune-error={s.prune_error!r}" if s.prune_error else "")]
        lines += [f"  {f.key}  attempts={f.attempts} error={f.error}" for f in s.failures]
        return "\n".join(lines) + "\n"

    def _gather(self) -> None:
        try:
            changes = self._table.changes_since(self._seen)
        except HistoryLostError:
            log.warning("reconciler fell behind, looking at every row", extra={"reconciler": self.name})
            self._pending = {self._table.key(row): row for row in self._table}
            self._prune_at = 0.0
        else:
            for change in changes:
                self._pending.pop(change.key, None)
                self._pending[change.key] = change.row
        self._seen = self._table.revision

    def _take(self, now: float) -> list[tuple[K, R]]:
        """The next rows to look at, each with its last known form: due retries may use half of a round."""
        taken: dict[K, R] = {}
        limit = self._round_size if not self._pending else max(1, self._round_size // 2)
        while self._due and self._due[0][0] <= now and len(taken) < limit:
            at, _, key = heapq.heappop(self._due)
            retry = self._retries.get(key)
            if retry is not None and retry.at == at and key not in self._pending:
                taken[key] = retry.row
        for key in list(itertools.islice(self._pending, self._round_size - len(taken))):
            taken[key] = self._pending.pop(key)
        return list(taken.items())

    def _apply(self, verb: Callable[[Sequence[R]], Mapping[Any, Exception]], rows: Mapping[K, R], now: float) -> int:
        if not rows:
            return 0
        failures: Mapping[Any, Exception]
        try:
            failures = verb(list(rows.values()))
        except Exception as exc:  # a batch is an item: its failure stays with its rows
            if not isinstance(exc, OSError | MeshError):
                log.exception("reconciler target is broken", extra={"reconciler": self.name})
            failures = dict.fromkeys(rows, exc)
        for key in rows:
            if key in failures:
                self._fail(key, rows[key], failures[key], now)
            else:
                self._retries.pop(key, None)
        failed = sum(1 for key in rows if key in failures) if failures else 0
        self._done_total += len(rows) - failed
        self._failed_total += failed
        return failed

    def _fail(self, key: K, row: R, error: Exception, now: float) -> None:
        retry = self._retries.get(key)
        if retry is None:
            retry = self._retries[key] = _Retry(row, self._new_backoff())
            log.warning(
                "row not applied, retrying",
                extra={"reconciler": self.name, "key": str(key)[:256], "error": repr(error)[:256]},
            )
        retry.row, retry.error = row, error
        retry.attempts += 1
        retry.at = now + retry.backoff.next()
        self._sequence += 1
        heapq.heappush(self._due, (retry.at, self._sequence, key))

    def _prune_if_due(self, now: float) -> None:
        if self._prune_at is None or now < self._prune_at or not self._table.initialized:
            return
        try:
            self._target.prune(self._table.rows())
        except (OSError, MeshError) as exc:
            delay_s = self._prune_backoff.next()
            self._prune_error, self._prune_at = repr(exc)[:256], now + delay_s
            log.warning("prune failed, retrying", extra={"reconciler": self.name, "delay_s": delay_s})
        else:
            self._is_pruned, self._prune_error = True, ""
            self._prune_backoff.reset()
            self._prune_at = None if self._prune_interval_s is None else now + self._prune_interval_s

    def _wake_at(self, now: float) -> float | None:
        if self._pending:
            return now
        times = [self._due[0][0]] if self._due else []
        if self._prune_at is not None and self._table.initialized:
            times.append(self._prune_at)
        return max(now, min(times)) if times else None

    def _new_backoff(self) -> Backoff:
        return Backoff(*self._retry_s, rng=self._rng)
