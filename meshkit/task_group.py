# SPDX-License-Identifier: Apache-2.0
"""Tasks that end together, as `asyncio.TaskGroup` has them from Python 3.13 on, on every Python we run on.

Before, a group whose task fails while the group waits for the others cancels the task it runs in and never takes that back. To
everything in that task it then looks cancelled: until Python 3.11.3, which Debian 12 has not, `asyncio.timeout` ends with
CancelledError ever after, and a supervised task with it, without a word.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from contextvars import Context
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")


class TaskGroup(asyncio.TaskGroup):
    """Waits as a body would wait: what fails meanwhile is a failure in the body, after which a group takes its request back."""

    def __init__(self) -> None:
        super().__init__()
        self._running: set[asyncio.Task[Any]] = set()

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        task = super().create_task(coro, name=name, context=context)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                while self._running:
                    await asyncio.wait(self._running)
            except asyncio.CancelledError as exc:
                kind, error, trace = type(exc), exc, exc.__traceback__
        try:
            await super().__aexit__(kind, error, trace)
        except BaseExceptionGroup:
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # by somebody else, who is heard at the next await
                task.uncancel()
                task.cancel()
            raise
