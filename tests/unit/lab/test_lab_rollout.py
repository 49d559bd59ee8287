# SPDX-License-Identifier: Apache-2.0
"""A rollout, driven step by step, must never break its two promises and must always end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lab.devkube.controllers.rollout import Generation, absolute, limits, plan_rollout


def test_percentages_round_up_for_surge_and_down_for_missing() -> None:
    assert (absolute("25%", 2, up=True), absolute("25%", 2, up=False)) == (1, 0)


def test_a_rollout_that_could_not_move_may_miss_one_pod() -> None:
    deployment = {"spec": {"replicas": 3, "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}}}
    assert limits(deployment) == (3, 2)


def test_recreate_starts_the_new_only_after_the_old_is_gone() -> None:
    busy = plan_rollout(3, 3, 0, Generation("new", 0, 0), [Generation("old", 3, 3)], recreate=True)
    assert busy == {"old": 0, "new": 0}
    assert plan_rollout(3, 3, 0, Generation("new", 0, 0), [Generation("old", 0, 0)], recreate=True)["new"] == 3


@given(wanted=st.integers(0, 12), old=st.integers(0, 12), surge=st.integers(0, 5), missing=st.integers(0, 5))
def test_pods_stay_within_both_limits_until_the_rollout_ends(wanted: int, old: int, surge: int, missing: int) -> None:
    """Law: ready pods never fall below the floor (or below what there was), the total never grows over the ceiling."""
    if not surge and not missing:
        missing = 1
    ceiling, floor = wanted + surge, max(0, wanted - missing)
    new_set, old_set = Generation("new", 0, 0), Generation("old", old, old)
    for _ in range(60):
        before = new_set.ready + old_set.ready
        plan = plan_rollout(wanted, ceiling, floor, new_set, [old_set], recreate=False)
        assert sum(plan.values()) <= max(ceiling, new_set.replicas + old_set.replicas)
        kept = min(new_set.ready, plan["new"]) + min(old_set.ready, plan["old"])
        assert kept >= min(floor, before)
        old_set = Generation("old", plan["old"], min(old_set.ready, plan["old"]))
        # one more pod of the new set becomes ready per step
        new_set = Generation("new", plan["new"], min(plan["new"], new_set.ready + 1))
    assert (new_set.replicas, old_set.replicas) == (wanted, 0)
