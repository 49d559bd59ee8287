# SPDX-License-Identifier: Apache-2.0
"""The simulated loop: who sleeps takes one turn, can be cancelled, and stands still with its process."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from tests.simulation.clock import ProcessClock
from tests.simulation.loop import PROCESS, Baton, SimulatedLoop, sleep


@pytest.fixture
def loop() -> Iterator[SimulatedLoop]:
    loop = SimulatedLoop()
    asyncio.set_event_loop(loop)
    yield loop
    loop.end_callers()
    asyncio.set_event_loop(None)
    loop.close()


def run(loop: SimulatedLoop, main: Coroutine[Any, Any, Any]) -> Any:
    return loop.run_until_complete(main)


def test_a_sleep_takes_its_time_and_one_turn(loop: SimulatedLoop) -> None:
    async def main() -> tuple[float, int]:
        steps = loop.steps
        await ProcessClock(loop).sleep(2.5)
        return loop.time(), loop.steps - steps

    assert run(loop, main()) == (2.5, 1)


def test_who_is_cancelled_asleep_wakes_at_once_and_not_again(loop: SimulatedLoop) -> None:
    woken: list[float] = []

    async def nap() -> None:
        try:
            await sleep(100)
        finally:
            woken.append(loop.time())
            await sleep(1)
            woken.append(loop.time())

    async def main() -> None:
        task = asyncio.create_task(nap())
        await sleep(3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await sleep(200)

    run(loop, main())
    assert woken == [3, 4]
    assert loop.errors == []


def test_a_time_limit_ends_a_sleep(loop: SimulatedLoop) -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await sleep(60)
        return loop.time()

    assert run(loop, main()) == 5


def test_a_process_that_stands_still_wakes_when_it_goes_on(loop: SimulatedLoop) -> None:
    woken: list[float] = []

    async def nap() -> None:
        PROCESS.set("p")
        await sleep(1)
        woken.append(loop.time())

    async def main() -> None:
        task = asyncio.create_task(nap())
        await sleep(0.5)
        loop.freeze("p")
        await sleep(5)
        assert woken == []
        loop.thaw("p")
        await task

    run(loop, main())
    assert woken == [5.5]


def test_a_call_that_blocks_waits_until_it_is_woken_or_its_time_is_over(loop: SimulatedLoop) -> None:
    def work() -> list[float]:
        first, second, found = Baton(loop), Baton(loop), list[float]()
        loop.call_later(1, first.wake)
        first.wait(10)
        found.append(loop.time())
        loop.call_later(50, second.wake)
        second.wait(10)
        return [*found, loop.time()]

    async def main() -> list[float]:
        found: list[float] = await loop.run_in_executor(None, work)
        await sleep(100)
        return found

    assert run(loop, main()) == [1, 11]
