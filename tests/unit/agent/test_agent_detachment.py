# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from agent import detachment as module
from agent.detachment import RETRY_S, Detachment
from meshkit.clock import ManualClock, settle


async def test_readiness_says_detached_only_when_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed removal is tried again, and meanwhile says why."""
    outcomes: list[OSError | None] = [OSError(16, "device busy"), None]

    async def at_once(call: Callable[[], None]) -> None:
        call()

    def uninstall() -> None:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    monkeypatch.setattr(module, "in_thread", at_once)
    clock = ManualClock()
    detachment = Detachment(uninstall, clock)
    assert detachment.readiness()[0] == 503
    task = asyncio.create_task(detachment.remove())
    await settle()
    code, text = detachment.readiness()
    assert (code, "device busy" in text, task.done()) == (503, True, False)
    await clock.run_for(RETRY_S)
    assert (detachment.readiness(), task.done()) == ((200, "Detached"), True)
