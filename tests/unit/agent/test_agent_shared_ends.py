# SPDX-License-Identifier: Apache-2.0
"""What two sequences have in common at both ends, against counting it one by one."""

from __future__ import annotations

from itertools import takewhile

from hypothesis import given
from hypothesis import strategies as st

from agent.loadbalancer.shared_ends import shared_ends


def _counted(old: str, new: str) -> int:
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False))))


@given(*[st.text(alphabet="ab", max_size=12)] * 5)
def test_the_same_ends_are_found_as_by_counting(first: str, old: str, new: str, last: str, more: str) -> None:
    before, after = first + old + last, first + new + last + more
    start, end = shared_ends(before, after)
    assert start == _counted(before, after)
    assert end == _counted(before[start:][::-1], after[start:][::-1])


def test_ends_do_not_overlap() -> None:
    assert shared_ends("aaa", "aa") == (2, 0)
    assert shared_ends("abc", "abc") == (3, 0)
    assert shared_ends("abc", "abxc") == (2, 1)
    assert shared_ends("", "a") == (0, 0)
