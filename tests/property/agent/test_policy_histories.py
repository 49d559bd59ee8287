# SPDX-License-Identifier: Apache-2.0
"""Whatever happened before, the compiler enforces what a fresh one would: in long random histories."""

from __future__ import annotations

import os
import pprint

import pytest
from history_world import FAMILIES, Step, World, context_of
from policy_histories import history, shortest

from meshpolicy.range_shares import LIMITS, ShareLimits

HISTORIES = int(os.environ.get("POLICY_HISTORIES", "24"))
"""How many seeds; each is one test, so that a failing seed is named and can be run alone."""
LENGTH = 200
COMPARED = 6
"""A fresh start costs as much as all steps before it, so one is compared after every so many, after others in each history."""


def fault_of(steps: list[Step], *, seed: int, every: int = 1, first: int = 0) -> str:
    """What is wrong after the first step that leaves something wrong; empty if nothing is.

    Within the engine that is looked for after each step, against a fresh start after the `first` and `every` so many.
    """
    world = world_of(seed)
    for number, step in enumerate(steps):
        try:
            world = world.take(step)
        except Exception as exc:  # any exception is the finding
            return f"step {number}: {exc!r}"
        if found := world.faults():
            return f"step {number}: {found}"
        if number % every != first or not world.is_settled:
            continue
        fresh = world.rebuilt()
        if world.enforced() != fresh.enforced():
            return f"step {number}: endpoints enforce something else than after a fresh start"
        if world.staged() != fresh.staged():
            return f"step {number}: staged policies would decide something else than after a fresh start"
        if world.nodes != fresh.nodes:
            return f"step {number}: nodes have {world.nodes}, after a fresh start {fresh.nodes}"
        if world.kept_closed() != fresh.kept_closed():
            return f"step {number}: {world.kept_closed()} are kept closed, after a fresh start {fresh.kept_closed()}"
        if world.prefixes != fresh.prefixes:
            return f"step {number}: prefixes {world.prefixes}, after a fresh start {fresh.prefixes}"
    return ""


def world_of(seed: int) -> World:
    """Each switch for half of the seeds; each history goes on with others after a while. A third waits for the kernel."""
    families, limits = FAMILIES[seed // 2 % 3], ShareLimits(2, 3, 2) if seed % 3 == 1 else LIMITS
    context = context_of(is_local=bool(seed & 1), families=families, has_proxies=bool(seed & 4))
    return World(context, limits, has_order=seed // 3 % 3 == 1)


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_a_history_equals_a_fresh_start(seed: int) -> None:
    steps = history(seed, LENGTH)
    fault = fault_of(steps, seed=seed, every=COMPARED, first=seed // 4 % COMPARED)
    if fault:
        short = shortest(steps, lambda part: bool(fault_of(part, seed=seed)))
        fault = fault_of(short, seed=seed)
        pytest.fail(f"seed {seed}, {world_of(seed).context}: {fault}; shortest history:\n{pprint.pformat(short)}")


def test_a_shrunk_history_keeps_only_what_fails() -> None:
    steps: list[Step] = [("drop", "one", str(number)) for number in range(50)]
    needed = {("drop", "one", "7"), ("drop", "one", "41")}
    assert shortest(steps, lambda part: needed <= set(part)) == [("drop", "one", "7"), ("drop", "one", "41")]
