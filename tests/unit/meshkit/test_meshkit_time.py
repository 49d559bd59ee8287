# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import random

import pytest

from meshkit.backoff import Backoff
from meshkit.clock import ManualClock, SystemClock, settle
from meshkit.errors import PermanentError, TransientError
from meshkit.supervise import supervise
from meshkit.wake import Wake, wait_for_ring


def test_delays_double_to_the_maximum_with_jitter_below() -> None:
    backoff = Backoff(1.0, 8.0, random.Random(1))
    for base in (1.0, 2.0, 4.0, 8.0, 8.0):
        assert base / 2 <= backoff.next() <= base
    backoff.reset()
    assert backoff.next() <= 1.0


def test_two_backoffs_with_their_own_randomness_do_not_walk_in_step() -> None:
    assert [Backoff(1, 60).next() for _ in range(5)] != [Backoff(1, 60).next() for _ in range(5)]


def test_a_backoff_without_a_sensible_range_is_refused() -> None:
    with pytest.raises(ValueError, match="no range"):
        Backoff(2.0, 1.0)


async def test_sleepers_wake_in_the_order_of_their_deadlines_and_not_before() -> None:
    clock, woken = ManualClock(), []

    async def sleeper(name: str, delay_s: float) -> None:
        await clock.sleep(delay_s)
        woken.append(name)

    tasks = [asyncio.ensure_future(sleeper(n, d)) for n, d in (("late", 3.0), ("soon", 1.0), ("now", 0.0))]
    await settle()
    assert woken == ["now"]
    clock.advance(0.9)
    await settle()
    assert woken == ["now"]
    await clock.run_for(5.0)
    assert woken == ["now", "soon", "late"]
    assert clock.monotonic() == pytest.approx(5.9)
    await asyncio.gather(*tasks)


async def test_a_cancelled_sleeper_is_no_deadline() -> None:
    clock = ManualClock()
    task = asyncio.ensure_future(clock.sleep(5.0))
    await settle()
    assert clock.next_deadline == 5.0
    task.cancel()
    await settle()
    assert clock.next_deadline is None
    clock.advance(10.0)


async def test_the_system_clock_moves_by_itself() -> None:
    clock = SystemClock()
    before = clock.monotonic()
    await clock.sleep(0.001)
    assert clock.monotonic() > before
    assert clock.wall() > 1_700_000_000
    assert await wait_for_ring(Wake(), 0, 0.001, clock) is False


async def test_a_failing_task_is_tried_again_after_its_delay_and_its_success_ends_it() -> None:
    clock, attempts, failures = ManualClock(), [], []

    async def run() -> None:
        attempts.append(clock.monotonic())
        if len(attempts) < 3:
            raise TransientError("not yet")

    task = asyncio.ensure_future(
        supervise(
            "job",
            run,
            backoff=Backoff(1.0, 10.0, random.Random(3)),
            clock=clock,
            on_failure=lambda exc, delay_s: failures.append((str(exc), delay_s)),
        )
    )
    await clock.run_for(60.0)
    await task
    assert len(attempts) == 3
    assert [text for text, _ in failures] == ["not yet", "not yet"]
    assert attempts[1] - attempts[0] == pytest.approx(failures[0][1])


async def test_a_permanent_failure_is_not_retried() -> None:
    async def run() -> None:
        raise PermanentError("no such file")

    with pytest.raises(PermanentError):
        await supervise("job", run, backoff=Backoff(1.0, 2.0), clock=ManualClock())


async def test_a_long_life_resets_the_delay() -> None:
    clock, delays = ManualClock(), []

    async def run() -> None:
        await clock.sleep(100.0 if len(delays) == 4 else 0.0)
        raise OSError("gone")

    backoff = Backoff(1.0, 16.0, random.Random(5))
    task = asyncio.ensure_future(
        supervise("job", run, backoff=backoff, clock=clock, on_failure=lambda _, delay_s: delays.append(delay_s))
    )
    while len(delays) < 5:
        await clock.run_for(10.0)
    assert delays[3] >= 4.0
    assert delays[4] <= 1.0
    task.cancel()
    await settle()


async def test_waiting_ends_with_the_ring_or_with_the_time_whichever_is_first() -> None:
    clock, wake = ManualClock(), Wake()
    ring = asyncio.ensure_future(wait_for_ring(wake, wake.count, 5.0, clock))
    await settle()
    wake.set()
    assert await ring is True
    timer = asyncio.ensure_future(wait_for_ring(wake, wake.count, 5.0, clock))
    await clock.run_for(5.0)
    assert await timer is False
    assert clock.next_deadline is None  # nothing is left behind
    assert await wait_for_ring(wake, wake.count, 0.0, clock) is False
    ended = asyncio.ensure_future(wait_for_ring(wake, wake.count, 5.0, clock))
    await settle()
    ended.cancel()
    await settle()
    assert clock.next_deadline is None
    assert await wait_for_ring(wake, wake.count - 1, 5.0, clock) is True
