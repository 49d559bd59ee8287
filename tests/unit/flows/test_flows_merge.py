# SPDX-License-Identifier: Apache-2.0
"""The order in which flows of several nodes are passed on, and that nobody is waited for in vain twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flows.merge import MOST_OF_ONE, PATIENCE_S, Merge

WALL_NS = 10**18


def _merge(*names: str, is_live: bool = False) -> Merge[str]:
    made: Merge[str] = Merge(is_live=is_live)
    for name in names:
        made.open(name)
    return made


def test_an_item_waits_until_nothing_earlier_can_come() -> None:
    merge = _merge("a", "b")
    merge.add("a", 5, "a5", 0.0, WALL_NS)
    assert merge.take(0.0) == []
    merge.add("b", 3, "b3", 0.1, WALL_NS)
    assert merge.take(0.1) == ["b3"], "b may still say 4"
    merge.close("b")
    assert merge.take(0.1) == ["a5"]


def test_a_silent_source_is_waited_for_once() -> None:
    merge = _merge("a", "b")
    merge.add("a", 1, "a1", 0.0, WALL_NS)
    assert merge.due_s() == PATIENCE_S
    assert merge.take(PATIENCE_S) == ["a1"]
    merge.add("a", 2, "a2", PATIENCE_S, WALL_NS)
    assert merge.take(PATIENCE_S) == ["a2"]
    merge.add("b", 3, "b3", PATIENCE_S, WALL_NS)
    merge.add("b", 4, "b4", PATIENCE_S, WALL_NS)
    assert merge.take(PATIENCE_S) == [], "it has spoken, so a is waited for"


def test_a_source_that_is_full_goes_on_when_others_may_be_silent_for_ever() -> None:
    live, ending = _merge("a", "b", is_live=True), _merge("a", "b")
    for merge in (live, ending):
        for n in range(MOST_OF_ONE):
            assert merge.has_room("a")
            merge.add("a", n, f"a{n}", 0.0, WALL_NS)
        assert not merge.has_room("a")
    assert live.take(0.0) == ["a0"]
    assert live.has_room("a")
    assert ending.take(0.0) == []


def test_a_clock_that_is_ahead_delays_nothing_of_its_node() -> None:
    merge = _merge("ahead", "b", is_live=True)
    merge.add("ahead", WALL_NS + 3600 * 10**9, "ahead", 0.0, WALL_NS)
    merge.add("b", WALL_NS + 1, "b", 0.0, WALL_NS + 1)
    assert merge.take(0.0) == ["ahead"]


def test_a_clock_that_is_set_back_keeps_the_order_of_its_node() -> None:
    merge = _merge("a")
    merge.add("a", 100, "first", 0.0, WALL_NS)
    merge.add("a", 50, "second", 0.0, WALL_NS)
    assert merge.take(0.0) == ["first", "second"]


@given(st.lists(st.lists(st.integers(0, 1000), max_size=20), min_size=1, max_size=5))
def test_sources_in_order_give_one_in_order(sources: list[list[int]]) -> None:
    """Law: streams that end, each in order, merge into the sorted list of all, whoever is read first."""
    merge = _merge(*map(str, range(len(sources))))
    found: list[str] = []
    for number, times in enumerate(sources):
        for time_ns in sorted(times):
            merge.add(str(number), time_ns, str(time_ns), 0.0, WALL_NS)
            found += merge.take(0.0)
        merge.close(str(number))
    found += merge.take(0.0)
    assert found == [str(n) for n in sorted(n for times in sources for n in times)]
    assert merge.is_empty
