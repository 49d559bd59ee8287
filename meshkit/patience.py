# SPDX-License-Identifier: Apache-2.0
"""Waiting for so long and no longer, as `asyncio.wait_for` does from Python 3.12 on.

Before, a cancellation that comes when the result is there already is lost: a task that waits so in a loop goes on for ever, and
so does the program that waits for its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def within(seconds: float, work: Awaitable[T]) -> T:
    """What the work returns or raises. Raises: TimeoutError when it took too long; it is cancelled then."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if task.done():
            return task.result()
        raise TimeoutError
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
