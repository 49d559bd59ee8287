# SPDX-License-Identifier: Apache-2.0
"""Drive a target towards a table, one bounded round at a time.

Level-triggered: a round looks at the rows as they are now, so a row that changed twice is written once. A failed row is
tried again with its own back-off and holds nobody up; rows for which the target has no room share one back-off (`room`).
What the table does not want is pruned, and what the target lost is written again, once every source of the table has
finished its first listing, and at every prune interval from then on.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import math
import random
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from meshkit.backoff import Backoff
from meshkit.clock import Clock, SystemClock
from meshkit.errors import MAXIMUM_TEXT, ExhaustedError, MeshError
from meshkit.room import RoomQueue
from meshkit.table import HistoryLostError, Table
from meshkit.wake import wait_for_ring

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")
R_contra = TypeVar("R_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

ROUND_SIZE: Final = 1000
PRUNE_INTERVAL_S: Final = 1800.0
STATUS_FAILURES: Final = 20
SORTED_FAILURES: Final = 1000  # beyond this the first to fail are shown: status must not cost O(failures)


class Rows(Protocol[K, R_co]):
    """The wanted rows as they are at the time of the call: a table, or a dict."""

    def get(self, key: K, /) -> R_co | None: ...

    def keys(self) -> Collection[K]: ...


class ReconcilerTarget(Protocol[R_contra]):
    """What is driven: three idempotent verbs over whole rows.

    `update` and `delete` return the failures by primary key (empty: all done); deleting what is absent is success. An
    exception fails the whole batch, so a target isolates the rows that cannot be applied. `prune` compares the target
    with the rows: it removes everything that belongs to none of them, and names the keys of those whose part of the
    target is not as it was last written; they are updated in the next round. It is a generator, one step at a time: rows
    change and are written between two steps, of which none should take more than some ten milliseconds.
    """

    def update(self, rows: Sequence[R_contra]) -> Mapping[Any, Exception]: ...

    def delete(self, rows: Sequence[R_contra]) -> Mapping[Any, Exception]: ...

    def prune(self, rows: Any) -> Iterator[Collection[Any]]: ...


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
    """Where a reconciler stands; `failures` shows a few of `failed`, `repaired_total` counts rows the target had lost."""

    name: str
    pending: int
    failed: int
    done_total: int
    failed_total: int
    is_pruned: bool
    prune_error: str
    waiting_for: tuple[str, ...]
    failures: tuple[Failure, ...]
    waiting_for_room: int = 0
    repaired_total: int = 0

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
        target: ReconcilerTarget[R],
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
        self._waiting: RoomQueue[K] = RoomQueue(self._new_backoff)
        self._sequence = 0
        self._prune_at: float | None = 0.0
        self._prune_backoff = self._new_backoff()
        self._pruning: Iterator[Collection[K]] | None = None
        self._lost: list[K] = []  # by what the prune under way has found
        self._is_pruned, self._prune_error, self._has_begun = False, "", False
        self._done_total = self._failed_total = self._repaired_total = 0

    async def run(self) -> None:
        """Runs for ever. Between two rounds every other task of the loop gets its turn."""
        self._has_begun = True
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
        """One round: at most `round_size` rows deleted or updated, then perhaps a step of a prune."""
        self._gather()
        gone: dict[K, R] = {}
        wanted: dict[K, R] = {}
        tried = [key for key in self._waiting.take(now, max(1, self._round_size // 2)) if key not in self._pending]
        for key, last in self._take(now, tried):
            row = self._table.get(key)
            if row is None:
                gone[key] = last
            else:
                wanted[key] = row
        failures = self._apply(self._target.delete, gone, now) | self._apply(self._target.update, wanted, now)
        self._look_for_room(now, tried, failures, is_any_done=len(gone) + len(wanted) > len(failures))
        if not self._pending:
            self._prune_if_due(now)
        return Outcome(self._wake_at(now), len(gone) + len(wanted) - len(failures), len(failures))

    def prune_soon(self) -> None:
        """The next round that finds nothing pending prunes, if the table is initialized."""
        self._prune_at, self._pruning = 0.0, None
        self._table.changed.set()

    async def repair(self, deadline_s: float) -> bool:
        """The table was written and the target compared with it, or the deadline (monotonic seconds) passed.

        False, and nothing was done, if `run` did not begin: what the target holds is to stay until it does.
        """
        if not self._has_begun:
            return False
        self.prune_soon()
        while True:
            now = self._clock.monotonic()
            outcome = self.run_once(now)
            if outcome.wake_at is None or outcome.wake_at > now or now >= deadline_s:
                return True
            await asyncio.sleep(0)

    def status(self) -> ReconcilerStatus:
        """Where it stands now, counting changes that no round has seen yet."""
        self._gather()
        first: list[tuple[K, _Retry[R]]] = []
        if self._retries:
            shown = itertools.islice(self._retries.items(), SORTED_FAILURES)
            first = heapq.nsmallest(STATUS_FAILURES, shown, key=lambda item: str(item[0]))
        return ReconcilerStatus(
            name=self.name,
            pending=len(self._pending),
            failed=len(self._retries),
            done_total=self._done_total,
            failed_total=self._failed_total,
            is_pruned=self._is_pruned,
            prune_error=self._prune_error,
            waiting_for=self._table.waiting_for,
            failures=tuple(self._failure(key, retry) for key, retry in first),
            waiting_for_room=len(self._waiting),
            repaired_total=self._repaired_total,
        )

    @property
    def has_begun(self) -> bool:
        """`run` writes: before, the target is as it was found."""
        return self._has_begun

    @property
    def is_written(self) -> bool:
        """Every row was tried since it changed last, or `run` did not begin: then the target is as it was found."""
        self._gather()
        return not self._has_begun or not self._pending

    def failure_of(self, key: K) -> Failure | None:
        """Why this row is not in the target as it should be; None if nothing is known against it."""
        retry = self._retries.get(key)
        return None if retry is None else self._failure(key, retry)

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
            self._prune_at, self._pruning = 0.0, None
        else:
            for change in changes:
                self._pending.pop(change.key, None)
                self._pending[change.key] = change.row
        self._seen = self._table.revision

    def _take(self, now: float, tried: Iterable[K]) -> list[tuple[K, R]]:
        """The next rows to look at, each with its last known form: due retries may use half of a round."""
        taken: dict[K, R] = {key: self._retries[key].row for key in tried}
        limit = self._round_size if not self._pending else max(1, self._round_size // 2)
        while self._due and self._due[0][0] <= now and len(taken) < limit:
            at, _, key = heapq.heappop(self._due)
            retry = self._retries.get(key)
            if retry is not None and retry.at == at and key not in self._pending:
                taken[key] = retry.row
        for key in list(itertools.islice(self._pending, self._round_size - len(taken))):
            taken[key] = self._pending.pop(key)
        return list(taken.items())

    def _apply(
        self, verb: Callable[[Sequence[R]], Mapping[Any, Exception]], rows: Mapping[K, R], now: float
    ) -> dict[K, Exception]:
        """The failures of this round, with which every row that failed knows when it is tried again."""
        if not rows:
            return {}
        try:
            found = verb(list(rows.values()))
        except Exception as exc:  # a batch is an item: its failure stays with its rows
            found = dict.fromkeys(rows, exc)
        failures = {key: found[key] for key in rows if key in found} if found else {}
        if self._retries:
            for key in rows:
                if key not in failures and self._retries.pop(key, None) is not None:
                    self._waiting.discard(key)
        news = [key for key, error in failures.items() if self._fail(key, rows[key], error, now)]
        if news:
            self._complain(news, failures)
        self._done_total += len(rows) - len(failures)
        self._failed_total += len(failures)
        return failures

    def _fail(self, key: K, row: R, error: Exception, now: float) -> bool:
        """The row waits for its next attempt; true if it was in order before."""
        retry = self._retries.get(key)
        is_new = retry is None
        if retry is None:
            retry = self._retries[key] = _Retry(row, self._new_backoff())
        retry.row, retry.error = row, error
        retry.attempts += 1
        if isinstance(error, ExhaustedError):
            retry.at = math.inf
            self._waiting.put(key, now)
            return is_new
        self._waiting.discard(key)
        retry.at = now + retry.backoff.next()
        self._sequence += 1
        heapq.heappush(self._due, (retry.at, self._sequence, key))
        return is_new

    def _complain(self, news: Sequence[K], failures: Mapping[K, Exception]) -> None:
        """One line per round, whatever the number of rows. What is neither the kernel's nor ours is a programming error."""
        error = failures[news[0]]
        facts = {
            "reconciler": self.name,
            "key": str(news[0])[:MAXIMUM_TEXT],
            "error": repr(error)[:MAXIMUM_TEXT],
            "rows": len(news),
        }
        log.warning("rows not applied, retrying", extra=facts)
        broken = next((e for e in failures.values() if not isinstance(e, OSError | MeshError | ValueError)), None)
        if broken is not None:
            log.error("reconciler target is broken", extra={"reconciler": self.name}, exc_info=broken)

    def _look_for_room(
        self, now: float, tried: Collection[K], failures: Mapping[K, Exception], *, is_any_done: bool
    ) -> None:
        if tried:
            self._waiting.tried(now, has_room=not any(isinstance(failures.get(k), ExhaustedError) for k in tried))
        if is_any_done:
            self._waiting.room_made(now)

    def _failure(self, key: K, retry: _Retry[R]) -> Failure:
        at = self._waiting.due_at if key in self._waiting else retry.at
        return Failure(key, repr(retry.error)[:MAXIMUM_TEXT], retry.attempts, retry.at if at is None else at)

    def _prune_if_due(self, now: float) -> None:
        try:
            if self._pruning is None:
                if self._prune_at is None or now < self._prune_at or not self._table.initialized:
                    return
                self._pruning, self._lost = self._target.prune(self._table), []
            lost = next(self._pruning, None)
        except Exception as exc:  # the rows go on; a programming error is one, and says where
            self._pruning = None
            delay_s = self._prune_backoff.next()
            self._prune_error, self._prune_at = repr(exc)[:MAXIMUM_TEXT], now + delay_s
            is_known = isinstance(exc, OSError | MeshError | ValueError)
            facts = {"reconciler": self.name, "delay_s": delay_s, "error": repr(exc)[:MAXIMUM_TEXT]}
            log.warning("prune failed, retrying", extra=facts, exc_info=None if is_known else exc)
        else:
            if lost is not None:
                self._repair(lost)
                return
            if self._lost:
                facts = {"reconciler": self.name, "key": str(self._lost[0])[:MAXIMUM_TEXT], "rows": len(self._lost)}
                log.warning("target was changed by others", extra=facts)
            self._pruning, self._is_pruned, self._prune_error = None, True, ""
            self._prune_backoff.reset()
            self._prune_at = None if self._prune_interval_s is None else now + self._prune_interval_s
            self._waiting.room_made(now)

    def _repair(self, lost: Collection[K]) -> None:
        """Rows whose part of the target was lost or changed by others are pending."""
        rows = {key: row for key in lost if (row := self._table.get(key)) is not None}
        if not rows:
            return
        self._repaired_total += len(rows)
        self._lost.extend(rows)
        self._pending |= rows

    def _wake_at(self, now: float) -> float | None:
        if self._pending or self._pruning is not None:
            return now
        times = [self._due[0][0]] if self._due else []
        if self._waiting.due_at is not None:
            times.append(self._waiting.due_at)
        if self._prune_at is not None and self._table.initialized:
            times.append(self._prune_at)
        return max(now, min(times)) if times else None

    def _new_backoff(self) -> Backoff:
        return Backoff(*self._retry_s, rng=self._rng)
