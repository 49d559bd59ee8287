# SPDX-License-Identifier: Apache-2.0
"""A journal keeps the newest within its bounds, and tells followers everything from their call on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from meshkit.journal import Journal


def everything(_: object) -> bool:
    return True


@given(st.lists(st.text(max_size=8), max_size=40), st.integers(0, 10), st.integers(0, 40))
def test_what_is_kept_is_the_longest_end_within_both_bounds(texts: list[str], entries: int, size_bytes: int) -> None:
    journal: Journal[str] = Journal(len, entries=entries, size_bytes=size_bytes)
    for text in texts:
        journal.extend([text])
    kept = journal.last(len(texts), everything)
    assert journal.count == len(texts)
    assert kept == texts[len(texts) - len(kept) :]
    assert len(kept) <= entries
    assert sum(map(len, kept)) == journal.size_bytes <= size_bytes


def test_filters_apply_before_counting() -> None:
    journal: Journal[int] = Journal(lambda _: 1)
    journal.extend(range(10))
    is_even: Callable[[int], bool] = lambda number: number % 2 == 0  # noqa: E731
    assert journal.last(2, is_even) == [6, 8]


async def test_a_follower_hears_what_came_between_its_call_and_its_first_look() -> None:
    journal: Journal[int] = Journal(lambda _: 1)
    journal.extend([1])
    following = journal.follow(everything)
    journal.extend([2, 3])
    assert [await anext(following), await anext(following)] == [2, 3]
    waiting = asyncio.ensure_future(anext(following))
    await asyncio.sleep(0)
    assert not waiting.done()
    journal.extend([4])
    assert await waiting == 4
