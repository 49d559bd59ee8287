# SPDX-License-Identifier: Apache-2.0
"""Several jobs that only make sense together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any


async def together(jobs: Mapping[str, Coroutine[Any, Any, None]]) -> None:
    """All jobs have returned, or the first one that failed has ended the others; its error is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for name, job in jobs.items():
                group.create_task(job, name=name)
    except BaseExceptionGroup as errors:
        raise first_error(errors) from errors


def first_error(error: BaseException) -> BaseException:
    """The first error inside groups of errors."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
