# SPDX-License-Identifier: Apache-2.0
"""Which part each tier takes, compared with connections that are handed on one by one."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.loadbalancer.low_capacity import HOLD_S, LowCapacities
from agent.loadbalancer.select import Candidate, TierShare, tiers_of
from agent.loadbalancer.selection_memory import SelectionMemory
from agent.loadbalancer.spill import capacity, parts_of, spill
from agent.tables import Backend, Service, ServicePort
from meshmodel.condition import Condition
from meshmodel.names import ServiceName

SERVICE = ServiceName("tour", "tickets")

KINDS = {
    "+": Backend("10.0.0.1", 80, "TCP"),
    "-": Backend("10.0.0.1", 80, "TCP", is_healthy=False),
    "~": Backend("10.0.0.1", 80, "TCP", condition=Condition.TERMINATING),
}


def candidates(**clusters: str) -> list[Candidate]:
    return [
        Candidate(KINDS[kind]._replace(address=f"10.{number}.0.{n}"), cluster, number, cluster == "north")
        for number, (cluster, kinds) in enumerate(clusters.items(), 1)
        for n, kind in enumerate(kinds)
    ]


def shares(threshold: int, order: str, held: dict[str, Fraction] | None = None, **clusters: str) -> str:
    found = candidates(**clusters)
    choice = spill(tiers_of(order.split(), "north", found), found, threshold, held or {}, {})
    return "" if choice is None else " ".join(f"{part.word}={part.share}" for part in choice.parts)


@pytest.mark.parametrize(
    ("threshold", "order", "north", "south", "east", "expected"),
    [
        (50, "local *", "++++", "++", "", "local=1 *=0"),
        (50, "local *", "++--", "++", "", "local=1 *=0"),
        (50, "local *", "+---", "++", "", "local=1/2 *=1/2"),
        (100, "local *", "+---", "++", "", "local=1/4 *=3/4"),
        (50, "local *", "----", "++", "", "local=0 *=1"),
        (50, "local *", "~~", "++", "", "local=0 *=1"),
        (50, "local *", "+~~~", "++", "", "local=1 *=0"),
        (100, "* local", "++", "+-", "+-", "*=1/2 local=1/2"),
        (100, "south east local", "+++", "+---", "+-", "south=1/4 east=3/8 local=3/8"),
        (100, "local *", "+-", "+---", "", "local=4/5 *=1/5"),
        (50, "local *", "---", "--", "", ""),
        (50, "local", "+---", "++++", "", "local=1"),
        (50, "east local *", "++", "+", "", "local=1 *=0"),
    ],
)
def test_the_table_of_parts(threshold: int, order: str, north: str, south: str, east: str, expected: str) -> None:
    assert shares(threshold, order, north=north, south=south, east=east) == expected


def test_pods_that_are_not_ready_count_against_their_tier() -> None:
    (tier,) = tiers_of(["local"], "north", candidates(north="+"))
    assert [capacity(tier, 50, unready) for unready in (0, 1, 3)] == [1, 1, Fraction(1, 2)]


def test_a_tier_takes_no_more_than_it_is_held_at() -> None:
    assert shares(50, "local *", {"local": Fraction(1, 4)}, north="++", south="+") == "local=1/4 *=3/4"
    assert shares(50, "local *", {"local": Fraction(0)}, north="++", south="-") == "local=1 *=0", "nobody else can"


@given(st.lists(st.fractions(0, 1, max_denominator=8), min_size=1, max_size=4))
def test_parts_are_what_is_left_of_connections_handed_on(capacities: list[Fraction]) -> None:
    """Law: a flow that goes round until nobody passes anything on ends in the same parts."""
    taken = [Fraction(0)] * len(capacities)
    flow = Fraction(1)
    for _ in range(400 if any(capacities) else 0):
        for n, each in enumerate(capacities):
            taken[n] += flow * each
            flow -= flow * each
    for found, expected in zip(parts_of(capacities), taken, strict=True):
        assert abs(found - expected) < Fraction(1, 10**6)


steps = st.lists(st.tuples(st.sampled_from([0, 1, 5, 20, 29, 30, 31]), st.integers(0, 4)), min_size=1, max_size=12)


@given(steps)
def test_a_tier_gets_back_what_it_lost_once_it_was_better_for_a_while(steps: list[tuple[int, int]]) -> None:
    """Law: the cap is the newest low that was not followed by HOLD_S seconds of something better."""
    lows: LowCapacities[str] = LowCapacities()
    history: list[tuple[float, Fraction]] = []
    now_s = 0.0
    for delay_s, quarters in steps:
        now_s += delay_s
        history.append((now_s, Fraction(quarters, 4)))
        lows.note("t/s", [("local", history[-1][1])], now_s)
    expected = _cap(history, now_s)
    assert lows.held("t/s", now_s).get("local", Fraction(1)) == expected
    due_s = lows.due_s(now_s)
    assert (due_s is None) is (expected == history[-1][1])
    assert due_s is None or (now_s < due_s <= now_s + HOLD_S and not lows.held("t/s", due_s))


def _cap(history: list[tuple[float, Fraction]], now_s: float) -> Fraction:
    low, better_since = Fraction(2), None
    for time_s, value in history:
        if better_since is not None and time_s - better_since >= HOLD_S:
            low, better_since = Fraction(2), None
        if value <= low:
            low, better_since = value, None
        elif better_since is None:
            better_since = time_s
    over = better_since is not None and now_s - better_since >= HOLD_S
    return history[-1][1] if over else low


def test_what_is_not_there_any_more_is_not_held() -> None:
    lows: LowCapacities[str] = LowCapacities()
    lows.note("t/s", [("local", Fraction(1, 2)), ("*", Fraction(1))], 0.0)
    lows.note("t/s", [("local", Fraction(1))], 1.0)
    assert lows.held("t/s", 1.0) == {"local": Fraction(1, 2)}
    assert lows.due_s(1.0) == 1.0 + HOLD_S
    assert lows.due_s(1.0 + HOLD_S) is None
    lows.note("t/s", [], 2.0)
    assert not lows.held("t/s", 2.0)


def test_ports_that_a_service_has_no_more_are_not_remembered() -> None:
    memory, ports = SelectionMemory(), [ServicePort(f"p{number}", number, "TCP") for number in (80, 81)]
    for port in ports:
        for able in (Fraction(1), Fraction(1, 2)):
            part = TierShare("local", frozenset(), Fraction(1), able)
            memory.note_parts(SERVICE, port, [part], 0.0, is_inside=True)
    memory.note_service(Service(SERVICE, (), (ports[1],), is_global=True, is_shared=True), (), (), 0.0)
    assert [memory.held(SERVICE, port, 0.0, is_inside=True) for port in ports] == [{}, {"local": Fraction(1, 2)}]
