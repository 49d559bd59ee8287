# SPDX-License-Identifier: Apache-2.0
"""Slots gained and lost, also where a failed write left a backend in two slots."""

from __future__ import annotations

import pytest

from agent.loadbalancer.registry import changed_targets


@pytest.mark.parametrize(
    ("old", "new", "gained", "lost"),
    [
        ("", "ab", "ab", ""),
        ("ab", "ab", "", ""),
        ("ab", "bc", "c", "a"),
        ("aab", "ab", "", "a"),
        ("aab", "b", "", "aa"),
    ],
)
def test_every_slot_is_counted_off_once(old: str, new: str, gained: str, lost: str) -> None:
    found = changed_targets(list(old), list(new))  # type: ignore[arg-type]
    assert ("".join(found[0]), "".join(found[1])) == (gained, lost)  # type: ignore[arg-type]
