# SPDX-License-Identifier: Apache-2.0
"""How often own records are read back: every few seconds where that is cheap, never less than once a minute."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from kvstore.readback import keep_reading_back
from kvstore.sharedstore import SharedStore
from meshkit.clock import ManualClock, settle


class Prefix:
    """A look at it takes so long."""

    def __init__(self, clock: ManualClock, look_s: float) -> None:
        self._clock, self._look_s, self.looks = clock, look_s, 0

    async def read_back(self, *, is_shared: bool = False) -> int:
        assert not is_shared
        self.looks += 1
        await self._clock.sleep(self._look_s)
        return 0


@pytest.mark.parametrize(("look_s", "pause_s"), [(0.0, 5.0), (0.01, 5.0), (0.2, 20.0), (3.0, 60.0)])
async def test_a_look_takes_one_part_in_a_hundred_of_the_time_at_most_and_comes_within_a_minute(
    look_s: float, pause_s: float
) -> None:
    clock = ManualClock()
    prefix = Prefix(clock, look_s)
    store = cast(SharedStore, prefix)
    task = asyncio.create_task(keep_reading_back(lambda: [("ip", store, False)], clock))
    await settle()
    clock.advance(5.0)
    await settle()
    assert prefix.looks == 1
    clock.advance(look_s)
    await settle()
    clock.advance(pause_s - 0.01)
    await settle()
    assert prefix.looks == 1
    clock.advance(0.011)
    await settle()
    assert prefix.looks == 2
    task.cancel()
    await asyncio.wait([task])
