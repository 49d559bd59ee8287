# SPDX-License-Identifier: Apache-2.0
"""Waiting with a bound."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(holds: Callable[[], bool], limit_s: float = 5.0) -> None:
    """Fails if it does not hold in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit_s
    while not holds():
        assert loop.time() < deadline, f"does not hold after {limit_s} s"
        await asyncio.sleep(0.001)
