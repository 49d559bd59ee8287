# SPDX-License-Identifier: Apache-2.0
"""Who waits with patience can be cancelled at any moment, also in that of the result."""

from __future__ import annotations

import asyncio

import pytest

from meshkit.patience import within


async def turn() -> None:
    """Everything that is due happens once."""
    loop = asyncio.get_running_loop()
    due: asyncio.Future[None] = loop.create_future()
    loop.call_soon(due.set_result, None)
    await due


@pytest.mark.parametrize("turns", range(6))
async def test_a_cancellation_that_comes_with_the_result_is_not_lost(turns: int) -> None:
    news = asyncio.Event()
    task = asyncio.create_task(within(60, news.wait()))
    for _ in range(3):
        await turn()
    news.set()
    for _ in range(turns):
        await turn()
    if not task.done():
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        assert await task


async def test_what_takes_too_long_is_cancelled_and_over() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(TimeoutError):
        await within(0.01, work())
    assert ended.is_set()


async def test_what_the_work_raises_is_raised() -> None:
    async def work() -> None:
        raise ValueError("why")

    with pytest.raises(ValueError, match="why"):
        await within(1, work())
