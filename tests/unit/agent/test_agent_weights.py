# SPDX-License-Identifier: Apache-2.0
"""Weights of clusters become slots whose shares are near the weights."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.loadbalancer.select import Candidate, Choice, TierShare
from agent.loadbalancer.weights import MAXIMUM_SLOTS, slots_each, weighted
from agent.tables import Backend, Target

SIZES = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 60), min_size=2)
OWN = "north"


def candidates(**sizes: int) -> list[Candidate]:
    return [
        Candidate(Backend(f"10.{number}.0.{n}", 80, "TCP"), cluster, number, cluster == OWN)
        for number, (cluster, size) in enumerate(sizes.items(), 1)
        for n in range(size)
    ]


def shares_of(chosen: list[Candidate], *weights: tuple[str, int]) -> dict[str, Fraction]:
    names = {c.cluster_id: c.cluster for c in chosen}
    targets = tuple(Target(c.backend.address, 80, "TCP", c.cluster_id) for c in chosen)
    found = weighted(Choice(tuple(chosen), (), ""), targets, weights, OWN)
    assert set(found) == set(targets), "every backend has a slot"
    return {name: Fraction(n, len(found)) for name, n in Counter(names[t.cluster_id] for t in found).items()}


@given(SIZES, st.data())
def test_shares_are_near_the_weights(sizes: dict[str, int], data: st.DataObject) -> None:
    weights = {name: data.draw(st.integers(1, 10)) for name in sizes}
    each = slots_each(sizes, weights)
    total = sum(each[name] * sizes[name] for name in sizes)
    assert 0 < total <= MAXIMUM_SLOTS
    for name, size in sizes.items():
        wanted = Fraction(weights[name], sum(weights.values()))
        assert abs(Fraction(each[name] * size, total) - wanted) < Fraction(2, 100), (each, sizes, weights)


def test_a_cluster_of_many_light_backends_leaves_the_others_their_ratio() -> None:
    found = slots_each({"a": 600, "b": 1, "c": 1}, {"a": 1, "b": 100, "c": 100})
    assert found["a"] == 1
    assert found["b"] == found["c"] > 9000, "what the limit leaves, in the wanted ratio"


def test_a_large_cluster_leaves_the_others_what_the_head_can_count() -> None:
    """Found by the test below."""
    sizes = {"a": 1, "b": 1, "c": 1, "d": 16_387}
    each = slots_each(sizes, dict.fromkeys(sizes, 1))
    assert sum(each[name] * sizes[name] for name in sizes) <= MAXIMUM_SLOTS
    assert each["a"] > 1000


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 20_000), min_size=2), st.data())
def test_the_head_of_a_frontend_can_count_the_slots(sizes: dict[str, int], data: st.DataObject) -> None:
    weights = {name: data.draw(st.integers(1, 1000)) for name in sizes}
    each = slots_each(sizes, weights)
    assert all(each.values())
    assert sum(each[name] * sizes[name] for name in sizes) <= max(MAXIMUM_SLOTS, sum(sizes.values()))


@pytest.mark.parametrize(
    ("weights", "north"),
    [
        ((("north", 3), ("south", 1)), Fraction(3, 4)),
        ((("local", 3),), Fraction(3, 4)),
        ((("*", 3), ("local", 1)), Fraction(1, 4)),
        ((("south", 1),), Fraction(1, 2)),
        ((("east", 0),), Fraction(1, 5)),
        ((), Fraction(1, 5)),
    ],
)
def test_who_is_named_and_who_is_not(weights: tuple[tuple[str, int], ...], north: Fraction) -> None:
    assert shares_of(candidates(north=1, south=4), *weights)["north"] == north


def test_one_cluster_alone_needs_no_weights() -> None:
    assert shares_of(candidates(south=4), ("south", 7)) == {"south": 1}


def test_a_cluster_that_is_given_no_weight_and_alone_keeps_its_backends() -> None:
    """Local traffic policies choose among the own pods, whatever weight their cluster has."""
    assert shares_of(candidates(north=2), ("local", 0), ("south", 1)) == {"north": 1}


@given(
    st.lists(st.lists(st.integers(1, 8), min_size=1, max_size=5), min_size=2, max_size=3),
    st.data(),
)
def test_tiers_weights_and_growth_multiply(sizes: list[list[int]], data: st.DataObject) -> None:
    """Law: a backend's share is its tier's, times its cluster's in the tier by weight, times its own in the cluster by growth."""
    chosen, grown, wanted = [], {}, {}
    parts, weights = [], []
    for tier, growths in enumerate(sizes):
        share, cluster = Fraction(data.draw(st.integers(1, 5))), f"c{tier}"
        parts.append(TierShare(cluster, frozenset({cluster}), share, share))
        weights.append((cluster, data.draw(st.integers(1, 4))))
        for n, eighths in enumerate(growths):
            target = Target(f"10.{tier}.0.{n}", 80, "TCP", tier)
            chosen.append(Candidate(Backend(target.address, 80, "TCP"), cluster, tier, is_local=False))
            grown[target], wanted[target] = Fraction(eighths, 8), share * eighths / sum(growths)
    whole = sum(wanted.values())
    parts = [part._replace(share=part.share / sum(p.share for p in parts)) for part in parts]
    found = weighted(Choice(tuple(chosen), (), "", tuple(parts)), tuple(wanted), weights, OWN, grown)
    assert set(found) == set(wanted)
    by_tier = Counter(target.cluster_id for target in found)
    for tier, part in enumerate(parts):
        assert abs(Fraction(by_tier[tier], len(found)) - part.share) < Fraction(2, 100)
    for target, count in Counter(found).items():
        assert abs(Fraction(count, len(found)) - wanted[target] / whole) < Fraction(2, 100)
