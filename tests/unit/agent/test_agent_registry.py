# SPDX-License-Identifier: Apache-2.0
"""Slots gained and lost, also where a backend stands in several."""

from __future__ import annotations

import pytest

from agent.loadbalancer.slot_change import changed_targets


@pytest.mark.parametrize(
    ("old", "new", "gained", "lost"),
    [
        ("", "ab", "ab", ""),
        ("", "aab", "aab", ""),
        ("ab", "aab", "a", ""),
        ("aab", "abb", "b", "a"),
        ("abc", "bbd", "bd", "ac"),
        ("ab", "ab", "", ""),
        ("ab", "bc", "c", "a"),
        ("aab", "ab", "", "a"),
        ("aab", "b", "", "aa"),
    ],
)
def test_every_slot_is_counted_off_once(old: str, new: str, gained: str, lost: str) -> None:
    found = changed_targets(list(old), list(new))  # type: ignore[arg-type]
    assert ("".join(found.gained), "".join(found.lost)) == (gained, lost)  # type: ignore[arg-type]
    assert set(found.joined) == set(new) - set(old)
    assert set(found.left) == set(old) - set(new)
    assert len(found.joined) + len(found.left) == len(set(old) ^ set(new))
