# SPDX-License-Identifier: Apache-2.0
"""Keep a task running: its failure stays its own and is tried again. Jobs that need each other end together."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from meshkit.backoff import Backoff
from meshkit.clock import Clock
from meshkit.errors import MAXIMUM_TEXT, TransientError
from meshkit.task_group import TaskGroup

log = logging.getLogger(__name__)


async def supervise(
    name: str,
    run: Callable[[], Awaitable[None]],
    *,
    backoff: Backoff,
    clock: Clock,
    retry_on: tuple[type[BaseException], ...] = (OSError, TransientError),
    on_failure: Callable[[BaseException, float], None] | None = None,
) -> None:
    """`run` has returned, after as many attempts as it took.

    An attempt that outlived the longest delay counts as a success: the next failure waits the minimum again.
    `on_failure` gets each failure and the delay until the next attempt. Raises whatever is not in `retry_on`.
    A failure is a warning when it differs from the one before it; its repetitions are for those who debug.
    """
    said = ""
    while True:
        started = clock.monotonic()
        try:
            await run()
        except retry_on as exc:
            if clock.monotonic() - started > backoff.maximum_s:
                backoff.reset()
                said = ""
            delay_s = backoff.next()
            error = repr(exc)[:MAXIMUM_TEXT]
            level = logging.DEBUG if error == said else logging.WARNING
            log.log(level, "task failed, retrying", extra={"task": name, "delay_s": delay_s, "error": error})
            said = error
            if on_failure is not None:
                on_failure(exc, delay_s)
            await clock.sleep(delay_s)
        else:
            return


async def together(jobs: Mapping[str, Coroutine[Any, Any, None]]) -> None:
    """All jobs have returned, or the first one that failed has ended the others; its error is raised as it is."""
    try:
        async with TaskGroup() as group:
            for name, job in jobs.items():
                group.create_task(job, name=name)
    except BaseExceptionGroup as errors:
        raise first_error(errors) from errors


def first_error(error: BaseException) -> BaseException:
    """The first error inside groups of errors."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
