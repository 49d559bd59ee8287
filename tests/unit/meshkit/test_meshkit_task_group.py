# SPDX-License-Identifier: Apache-2.0
"""A group that failed leaves nothing behind in the task it ran in, and a task that is ended meanwhile ends."""

from __future__ import annotations

import asyncio

import pytest

from meshkit.task_group import TaskGroup

FAILS = ValueError("the first to fail")


async def _fail() -> None:
    await asyncio.sleep(0)
    raise FAILS


async def _for_ever() -> None:
    await asyncio.Event().wait()


async def _group(*, is_body_waiting: bool = False) -> None:
    async with TaskGroup() as group:
        group.create_task(_for_ever())
        group.create_task(_fail())
        if is_body_waiting:
            await _for_ever()


async def _group_fails() -> None:
    with pytest.raises(ExceptionGroup) as raised:
        await _group()
    assert raised.value.exceptions == (FAILS,)


async def test_after_a_failure_the_task_is_not_cancelled_and_time_outs_are_time_outs() -> None:
    await _group_fails()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await _for_ever()
    await _group_fails()
    assert task.cancelling() == 0


async def test_a_failure_ends_a_body_that_waits_too() -> None:
    with pytest.raises(ExceptionGroup):
        await _group(is_body_waiting=True)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_task_that_is_cancelled_ends_all_of_its_group() -> None:
    members: list[asyncio.Task[None]] = []

    async def run() -> None:
        async with TaskGroup() as group:
            members.extend(group.create_task(_for_ever()) for _ in range(2))

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert all(member.cancelled() for member in members)


async def test_a_task_that_is_cancelled_while_its_group_fails_does_not_go_on() -> None:
    went_on = False

    async def ends_badly() -> None:
        try:
            await _for_ever()
        finally:
            raise FAILS

    async def group_of_one() -> None:
        async with TaskGroup() as group:
            group.create_task(ends_badly())

    async def run() -> None:
        nonlocal went_on
        with pytest.raises(ExceptionGroup):
            await group_of_one()
        await asyncio.sleep(0)
        went_on = True

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not went_on


async def test_tasks_that_tasks_make_are_waited_for_and_answers_are_theirs() -> None:
    ended: list[str] = []

    async def leaf() -> str:
        await asyncio.sleep(0)
        ended.append("leaf")
        return "answer"

    async with TaskGroup() as group:

        async def branch() -> None:
            await asyncio.sleep(0)
            made.append(group.create_task(leaf(), name="leaf"))

        made: list[asyncio.Task[str]] = []
        group.create_task(branch())
    assert ended == ["leaf"]
    assert [task.result() for task in made] == ["answer"]
