# SPDX-License-Identifier: Apache-2.0
"""The reconciler drives a target towards a table: retries, bounded rounds, prunes, a full target."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence

import pytest
from reconciler_world import Row, World

from meshkit import table as table_module
from meshkit.clock import settle
from meshkit.isolation import apply_rows


def test_changed_rows_are_written_once_in_their_latest_form() -> None:
    world = World()
    world.put(a=1)
    world.put(a=2, b=1)
    outcome = world.reconciler.run_once(0.0)
    assert (outcome.done, outcome.failed, outcome.wake_at) == (2, 0, None)
    assert world.target.held == {"a": 2, "b": 1}
    assert world.target.calls[0] == "update a,b"


def test_a_round_is_bounded_and_the_rest_is_due_at_once() -> None:
    world = World(round_size=3)
    world.put(**{f"r{n}": n for n in range(7)})
    assert world.reconciler.run_once(5.0).wake_at == 5.0
    assert len(world.target.held) == 3
    world.delete("r6")
    world.reconciler.run_once(5.0)
    assert world.reconciler.run_once(5.0).wake_at is None
    assert sorted(world.target.held) == [f"r{n}" for n in range(6)]


def test_deletions_come_before_updates_and_absent_rows_are_no_failure() -> None:
    world = World()
    world.put(a=1)
    world.reconciler.run_once(0.0)
    world.target.calls.clear()
    world.target.held.clear()
    world.put(b=1)
    world.delete("a")
    assert world.reconciler.run_once(0.0).failed == 0
    assert world.target.calls == ["delete a", "update b"]


def test_a_failed_row_is_retried_with_backoff_and_holds_nobody_up() -> None:
    world = World()
    world.target.failing = {"bad"}
    world.put(bad=1, good=1)
    outcome = world.reconciler.run_once(0.0)
    assert (outcome.done, outcome.failed) == (1, 1)
    assert world.target.held == {"good": 1}
    assert outcome.wake_at is not None
    assert 0.05 <= outcome.wake_at <= 0.1
    assert world.reconciler.run_once(outcome.wake_at - 0.01).failed == 0  # not due yet
    again = world.reconciler.run_once(outcome.wake_at)
    assert again.wake_at is not None
    assert 0.1 <= again.wake_at - outcome.wake_at <= 0.2
    world.target.failing = set()
    assert world.reconciler.run_once(again.wake_at).done == 1
    assert world.reconciler.status().is_settled
    assert world.target.held == {"good": 1, "bad": 1}


def test_a_retry_writes_the_row_as_it_is_by_then() -> None:
    world = World()
    world.target.failing = {"a"}
    world.put(a=1)
    world.reconciler.run_once(0.0)
    world.target.failing = set()
    world.put(a=2)
    world.reconciler.run_once(0.0)
    assert world.target.held == {"a": 2}
    assert world.reconciler.run_once(60.0) == (None, 0, 0)


def test_a_failed_deletion_is_retried_until_the_row_is_gone_or_back() -> None:
    world = World()
    world.put(a=1, b=1)
    world.reconciler.run_once(0.0)
    world.target.failing = {"a", "b"}
    world.delete("a", "b")
    assert world.reconciler.run_once(0.0).failed == 2
    world.target.failing = set()
    world.put(b=2)
    world.reconciler.run_once(1.0)
    assert world.target.held == {"b": 2}
    assert world.reconciler.status().failed == 0


def test_a_target_that_raises_fails_the_batch_and_comes_back() -> None:
    world = World()
    world.target.is_down = True
    world.put(a=1, b=1)
    assert world.reconciler.run_once(0.0).failed == 2
    status = world.reconciler.status()
    assert [f.key for f in status.failures] == ["a", "b"]
    assert "target is down" in status.failures[0].error
    world.target.is_down = False
    world.reconciler.run_once(1.0)
    assert world.target.held == {"a": 1, "b": 1}


def test_due_retries_do_not_starve_fresh_rows_nor_the_other_way_round() -> None:
    world = World(round_size=4)
    world.target.failing = {f"f{n}" for n in range(20)}
    world.put(**{f"f{n}": n for n in range(20)})
    while world.reconciler.run_once(0.0).wake_at == 0.0:
        pass
    world.put(**{f"g{n}": n for n in range(4)})
    world.target.calls.clear()
    world.reconciler.run_once(100.0)
    written = world.target.calls[0].removeprefix("update ").split(",")
    assert sorted(name[0] for name in written) == ["f", "f", "g", "g"]


def test_nothing_is_pruned_before_every_source_is_done_and_then_everything_foreign_is() -> None:
    world = World()
    done = world.table.expect("listing")
    world.target.held = {"foreign": 1, "mine": 0}
    world.put(mine=1)
    world.reconciler.run_once(0.0)
    assert world.target.held == {"foreign": 1, "mine": 1}
    assert not world.reconciler.status().is_pruned
    done()
    world.reconciler.run_once(0.0)
    assert world.target.held == {"mine": 1}
    assert world.reconciler.status().is_pruned


def test_a_prune_waits_until_nothing_is_pending_but_not_for_a_row_that_keeps_failing() -> None:
    world = World(round_size=2)
    world.target.failing = {"a"}
    world.put(a=1, b=1, c=1)
    world.reconciler.run_once(0.0)
    assert "prune" not in world.target.calls
    world.reconciler.run_once(0.0)
    assert world.target.calls[-1] == "prune"


def test_a_failed_prune_is_reported_and_retried() -> None:
    world = World()
    world.target.is_prune_down = True
    outcome = world.reconciler.run_once(0.0)
    assert outcome.wake_at is not None
    assert "prune refused" in world.reconciler.status().prune_error
    world.target.is_prune_down = False
    assert world.reconciler.run_once(outcome.wake_at).wake_at is None
    assert world.reconciler.status().is_settled


def test_prunes_repeat_at_their_interval() -> None:
    world = World(prune_interval_s=100.0)
    assert world.reconciler.run_once(0.0).wake_at == 100.0
    world.target.held = {"foreign": 1}
    world.reconciler.run_once(99.0)
    assert world.target.held
    world.reconciler.run_once(100.0)
    assert not world.target.held


def test_falling_behind_the_history_ends_in_the_same_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "TOMBSTONES_BEYOND_SIZE", 4)
    world = World()
    world.put(**{f"r{n}": n for n in range(5)})
    world.reconciler.run_once(0.0)
    for number in range(100):
        world.put(**{f"x{number}": 1})
        world.delete(f"x{number}")
    world.delete("r0")
    world.put(r1=100)
    for number in range(100, 200):
        world.put(**{f"x{number}": 1})
        world.delete(f"x{number}")
    while world.reconciler.run_once(1.0).wake_at == 1.0:
        pass
    assert world.target.held == {"r1": 100, "r2": 2, "r3": 3, "r4": 4}


def test_a_programming_error_in_a_target_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    world = World()

    def broken(rows: Sequence[Row]) -> Mapping[str, Exception]:
        raise TypeError("no such field")

    world.target.update = broken  # type: ignore[method-assign]
    world.put(a=1)
    with caplog.at_level(logging.ERROR):
        assert world.reconciler.run_once(0.0).failed == 1
    assert any(r.exc_info for r in caplog.records)


async def test_run_follows_the_table_and_the_clock_and_yields_between_rounds() -> None:
    world = World(round_size=1)
    task = asyncio.ensure_future(world.reconciler.run())
    turns = 0
    world.put(**{f"r{n}": n for n in range(5)})
    while len(world.target.held) < 5:
        turns += 1
        await asyncio.sleep(0)
        assert turns < 100
    assert turns >= 5
    world.target.failing = {"late"}
    world.put(late=1)
    await settle()
    world.target.failing = set()
    assert "late" not in world.target.held
    await world.clock.run_for(1.0)
    assert world.target.held["late"] == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_the_dump_names_what_failed_without_times() -> None:
    world = World()
    world.target.failing = {"a"}
    world.put(a=1)
    world.reconciler.run_once(0.0)
    assert world.reconciler.dump() == (
        "reconciler rows pending=0 failed=1 pruned=yes\n  a  attempts=1 error=OSError('full')\n"
    )


def test_a_full_target_costs_one_attempt_per_interval_and_fills_up_when_room_appears() -> None:
    world = World(round_size=100)
    world.target.room = 3
    world.put(**{f"r{n:02}": n for n in range(40)})
    while (outcome := world.reconciler.run_once(0.0)).wake_at == 0.0:
        pass
    assert sorted(world.target.held) == ["r00", "r01", "r02"]
    status = world.reconciler.status()
    assert (status.failed, status.waiting_for_room) == (37, 37)
    failure = world.reconciler.failure_of("r30")
    assert failure is not None
    assert "no room" in failure.error
    world.target.calls.clear()
    now = 0.0
    for _ in range(12):
        assert outcome.wake_at is not None
        assert outcome.wake_at > now
        now = outcome.wake_at
        outcome = world.reconciler.run_once(now)
    assert len(world.target.calls) == 12
    assert all(call.count(",") == 0 for call in world.target.calls), "one row per attempt"
    assert len(set(world.target.calls)) == 12, "the row that waited longest is tried first"
    world.delete("r00")
    rounds = 0
    while (outcome := world.reconciler.run_once(now)).wake_at == now:
        rounds += 1
    assert len(world.target.held) == 3
    world.target.room = 100
    world.delete("r01")
    while (outcome := world.reconciler.run_once(now)).wake_at == now:
        rounds += 1
    assert rounds < 20
    assert len(world.target.held) == 38
    assert world.reconciler.status().is_settled
    assert outcome.wake_at is None


def test_a_row_without_room_that_is_deleted_waits_no_more() -> None:
    world = World()
    world.target.room = 0
    world.put(a=1)
    world.reconciler.run_once(0.0)
    world.delete("a")
    assert world.reconciler.run_once(0.0).wake_at is None
    assert world.reconciler.status().waiting_for_room == 0


def test_many_failures_are_one_line_per_round(caplog: pytest.LogCaptureFixture) -> None:
    world = World(round_size=100)
    world.target.failing = {f"r{n}" for n in range(100)}
    world.put(**{f"r{n}": n for n in range(100)})
    with caplog.at_level(logging.WARNING):
        world.reconciler.run_once(0.0)
        world.reconciler.run_once(1000.0)
    (line,) = caplog.records
    assert vars(line)["rows"] == 100


def test_a_prune_that_finds_rows_lost_has_them_written_again() -> None:
    world = World(prune_interval_s=100.0)
    world.put(a=1, b=1)
    world.reconciler.run_once(0.0)
    del world.target.held["a"]
    world.target.lost = ("a", "gone meanwhile")
    assert world.reconciler.run_once(100.0).wake_at == 100.0
    assert world.reconciler.run_once(100.0).done == 1
    assert world.target.held == {"a": 1, "b": 1}
    assert world.reconciler.status().repaired_total == 1


def test_rows_are_written_between_two_steps_of_a_prune_and_one_asked_for_meanwhile_begins_anew() -> None:
    world = World(prune_interval_s=100.0)
    world.put(a=1, b=1, c=1)
    world.reconciler.run_once(0.0)
    world.target.lost, world.target.lost_a_step = ("a", "b"), 1
    world.target.calls.clear()
    world.reconciler.prune_soon()
    assert world.reconciler.run_once(0.0).wake_at == 0.0
    world.put(d=1)
    world.reconciler.run_once(0.0)
    assert world.target.calls == ["prune", "update a,d"]
    world.reconciler.prune_soon()
    while world.reconciler.run_once(0.0).wake_at == 0.0:
        pass
    assert world.target.calls == ["prune", "update a,d", "update b", "prune"]
    assert world.reconciler.status().repaired_total == 2


def test_a_programming_error_in_prune_stops_nothing() -> None:
    world = World(prune_interval_s=100.0)

    def broken(rows: Iterable[Row]) -> Collection[str]:
        raise KeyError("SCTP")

    world.target.prune = broken  # type: ignore[method-assign]
    world.put(a=1)
    world.reconciler.run_once(0.0)
    assert "SCTP" in world.reconciler.status().prune_error
    assert world.target.held == {"a": 1}


@pytest.mark.parametrize("bad", [set(), {3}, {0, 1, 2}, {7}, set(range(8))])
def test_every_row_that_can_be_written_is(bad: set[int]) -> None:
    written: set[int] = set()

    def write(rows: Sequence[int]) -> None:
        for row in rows:
            if row in bad:
                raise ValueError(row)
            written.add(row)

    failures = apply_rows(range(8), lambda row: row, write)
    assert written == set(range(8)) - bad
    assert set(failures) == bad
