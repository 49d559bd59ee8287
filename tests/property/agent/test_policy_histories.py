# SPDX-License-Identifier: Apache-2.0
"""Whatever happened before, the compiler enforces what a fresh one would: in long random histories."""

from __future__ import annotations

import os
import pprint

import pytest
from policy_histories import Step, World, history, shortest

from meshpolicy import PolicyContext, differences
from meshpolicy.proxy_ports import ProxyPorts
from meshpolicy.range_shares import LIMITS, ShareLimits

HISTORIES = int(os.environ.get("POLICY_HISTORIES", "24"))
"""How many seeds; each is one test, so that a failing seed is named and can be run alone."""
LENGTH = 200
COMPARED = 4
"""A fresh start costs as much as all steps before it, so one is compared after every so many, after others in each history."""


def fault_of(steps: list[Step], *, seed: int, every: int = 1, first: int = 0) -> str:
    """What is wrong after the first step that leaves something wrong; empty if nothing is.

    Within the engine that is looked for after each step, against a fresh start after the `first` and `every` so many.
    """
    world = World(context_of(seed), ShareLimits(2, 3, 2) if seed % 3 == 1 else LIMITS)
    for number, step in enumerate(steps):
        try:
            world.take(step)
        except Exception as exc:  # any exception is the finding
            return f"step {number}: {exc!r}"
        found = differences(world.compiler.engine)
        if found or world.compiler.faults:
            return f"step {number}: {found or dict(world.compiler.faults)}"
        if number % every != first:
            continue
        fresh = world.rebuilt()
        if world.enforced() != fresh.enforced():
            return f"step {number}: endpoints enforce something else than after a fresh start"
        if world.nodes != fresh.nodes:
            return f"step {number}: nodes have {world.nodes}, after a fresh start {fresh.nodes}"
        if world.kept_closed() != fresh.kept_closed():
            return f"step {number}: {world.kept_closed()} are kept closed, after a fresh start {fresh.kept_closed()}"
        if world.prefixes != fresh.prefixes:
            return f"step {number}: prefixes {world.prefixes}, after a fresh start {fresh.prefixes}"
    return ""


def context_of(seed: int) -> PolicyContext:
    """Each switch for half of the seeds."""
    proxy_ports = ProxyPorts() if seed & 4 else None
    return PolicyContext("north", bool(seed & 1), dual_stack=bool(seed & 2), proxy_ports=proxy_ports)


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_a_history_equals_a_fresh_start(seed: int) -> None:
    steps = history(seed, LENGTH)
    fault = fault_of(steps, seed=seed, every=COMPARED, first=seed // 8 % COMPARED)
    if fault:
        short = shortest(steps, lambda part: bool(fault_of(part, seed=seed)))
        fault = fault_of(short, seed=seed)
        pytest.fail(f"seed {seed}, {context_of(seed)}: {fault}; shortest history:\n{pprint.pformat(short)}")


def test_a_shrunk_history_keeps_only_what_fails() -> None:
    steps: list[Step] = [("drop", "one", str(number)) for number in range(50)]
    needed = {("drop", "one", "7"), ("drop", "one", "41")}
    assert shortest(steps, lambda part: needed <= set(part)) == [("drop", "one", "7"), ("drop", "one", "41")]
