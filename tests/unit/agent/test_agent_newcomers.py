# SPDX-License-Identifier: Apache-2.0
"""A new backend's share grows in eighths; what is known at first, or is listed again, is not new."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from agent.loadbalancer.newcomers import STEPS, Newcomers
from agent.tables import Target
from meshmodel.names import ClusterName, ServiceName

NAME, NORTH = ServiceName("t", "s"), ClusterName("north")
A, B, C = (Target(f"10.1.0.{n}", 80, "TCP", 1) for n in (1, 2, 3))


def known(*targets: Target) -> Newcomers:
    found = Newcomers()
    found.note(NAME, NORTH, targets, 0.0, is_listing=False)
    return found


def test_what_is_seen_first_is_not_new_and_what_comes_later_grows() -> None:
    found = known(A)
    found.note(NAME, NORTH, (A, B), 16.0, is_listing=False)
    eighths = [found.grown(NAME, 80, 16.0 + age).get(B, Fraction(1)) * STEPS for age in (0, 3, 4, 14, 64, 74)]
    assert eighths == [1, 1, 2, 3, 8, 8], "ticks are at multiples of 10 s"
    assert A not in found.grown(NAME, 80, 16.0)
    assert found.due_s(NAME, 80, 16.0) == 20.0
    assert found.due_s(NAME, 80, 90.0) is None


def test_a_listing_brings_nothing_new_and_who_comes_back_is_new_again() -> None:
    found = known(A)
    found.note(NAME, NORTH, (A, B), 1.0, is_listing=True)
    assert not found.grown(NAME, 8, 1.0)
    found.note(NAME, NORTH, (A,), 2.0, is_listing=False)
    found.note(NAME, NORTH, (A, B), 3.0, is_listing=False)
    assert set(found.grown(NAME, 8, 3.0)) == {B}
    found.note(NAME, NORTH, (A,), 3.5, is_listing=False)
    assert not found.grown(NAME, 8, 3.5)
    found.forget(NAME)
    assert not found.knows(NAME)


def test_a_cluster_with_nothing_is_known_too() -> None:
    found = known()
    found.note(NAME, NORTH, (C,), 1.0, is_listing=False)
    found.note(NAME, ClusterName("south"), (A,), 1.0, is_listing=False)
    assert set(found.grown(NAME, 8, 1.0)) == {C}, "north had none, of south nothing was known"


@given(st.integers(1, 3600), st.lists(st.floats(0, 5000), min_size=1, max_size=6))
def test_a_window_has_no_more_changes_than_steps(window_s: int, births: list[float]) -> None:
    """Law: whenever backends come, shares change at due times only, and full growth is reached within the window."""
    found, targets = known(), []
    for n, born_s in enumerate(sorted(births)):
        targets.append(Target(f"10.1.0.{n}", 80, "TCP", 1))
        found.note(NAME, NORTH, targets, born_s, is_listing=False)
    now_s = last = max(births)
    changes = 0
    while (due_s := found.due_s(NAME, window_s, now_s)) is not None:
        assert now_s < due_s <= now_s + window_s / STEPS + 1e-6
        before, middle = found.grown(NAME, window_s, now_s), found.grown(NAME, window_s, (now_s + due_s) / 2)
        assert before == middle
        now_s, changes = due_s, changes + 1
    assert changes <= STEPS
    assert now_s <= last + window_s + 1e-6
