# SPDX-License-Identifier: Apache-2.0
"""Maglev tables: the same as a slow version by the paper, even, weighted, and little moved by who comes or goes."""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.loadbalancer.maglev import maglev_table
from agent.tables import Target
from meshmodel.algorithm import MAGLEV_SIZES
from tests.support.effort import examples

SIZE = 251
some = st.lists(st.integers(1, 250), min_size=1, max_size=12, unique=True)


def target(number: int) -> Target:
    return Target(f"10.1.0.{number}", 80, "TCP", 1)


def by_the_paper(targets: list[Target], size: int) -> list[Target]:
    """Whole permutations, and turns in order."""
    permutations = {}
    for each in targets:
        digest = blake2b(repr(tuple(each)).encode(), digest_size=16).digest()
        offset, skip = int.from_bytes(digest[:8], "big") % size, int.from_bytes(digest[8:], "big") % (size - 1) + 1
        permutations[each] = [(offset + n * skip) % size for n in range(size)]
    table: dict[int, Target] = {}
    while len(table) < size:
        for each in sorted(targets):
            free = next((slot for slot in permutations[each] if slot not in table), None)
            if free is not None:
                table[free] = each
    return [table[slot] for slot in range(size)]


@settings(max_examples=examples(30))
@given(some)
def test_the_table_is_the_papers(numbers: list[int]) -> None:
    targets = [target(n) for n in numbers]
    assert list(maglev_table(tuple(targets), SIZE)) == by_the_paper(targets, SIZE)


@settings(max_examples=examples(30))
@given(some, st.randoms(use_true_random=False))
def test_shares_are_even_and_the_order_does_not_matter(numbers: list[int], random: object) -> None:
    targets = [target(n) for n in numbers]
    table = maglev_table(tuple(targets), SIZE)
    counts = Counter(table)
    assert set(counts) == set(targets)
    assert max(counts.values()) - min(counts.values()) <= 1
    random.shuffle(targets)  # type: ignore[attr-defined]
    assert maglev_table(tuple(targets), SIZE) == table


@settings(max_examples=examples(30))
@given(st.dictionaries(st.integers(1, 250), st.integers(1, 20), min_size=1, max_size=8))
def test_who_stands_more_often_has_so_many_times_the_slots(times: dict[int, int]) -> None:
    targets = tuple(target(n) for n, count in times.items() for _ in range(count))
    counts, whole = Counter(maglev_table(targets, 1021)), len(targets)
    for n, count in times.items():
        assert abs(counts[target(n)] - 1021 * count / whole) <= len(times) + 1


def test_who_goes_moves_few_slots_of_the_others() -> None:
    targets = [target(n) for n in range(1, 101)]
    before = maglev_table(tuple(targets), 16_381)
    moved = 0
    for gone in targets[:10]:
        after = maglev_table(tuple(t for t in targets if t != gone), 16_381)
        moved += sum(1 for old, new in zip(before, after, strict=True) if old != new and old != gone)
    assert moved / 10 / len(before) < 0.04, "a hundredth is lost with the backend, a few hundredths besides"


@pytest.mark.parametrize(("backends", "size"), [(1, 251), (251, 251), (252, 509), (3000, 4093)])
def test_every_backend_has_a_slot(backends: int, size: int) -> None:
    targets = tuple(Target(f"10.1.{n // 250}.{n % 250}", 80, "TCP", 1) for n in range(backends))
    table = maglev_table(targets, SIZE)
    assert len(table) == size
    assert set(table) == set(targets)


def test_nothing_and_too_many_are_left_as_they_are() -> None:
    assert maglev_table((), SIZE) == ()
    many = tuple(Target("10.1.0.1", n, "TCP", 1) for n in range(MAGLEV_SIZES[-1] + 1))
    assert maglev_table(many, SIZE) == many
