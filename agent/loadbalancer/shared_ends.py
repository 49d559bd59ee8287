# SPDX-License-Identifier: Apache-2.0
"""How much of two long sequences is the same at their beginning and at their end. Pure.

Whoever changes one of thousands leaves the objects before and after it as they are, and to compare equal objects by identity
costs nearly nothing.
"""

from __future__ import annotations

from collections.abc import Sequence


def shared_ends(old: Sequence[object], new: Sequence[object]) -> tuple[int, int]:
    """So many are equal from the first on, and of the others so many from the last on."""
    start = _shared_start(old, new)
    return start, _shared_start(old[start:][::-1], new[start:][::-1])


def _shared_start(old: Sequence[object], new: Sequence[object]) -> int:
    same, left = 0, min(len(old), len(new))
    while left:
        half = (left + 1) // 2
        if old[same : same + half] == new[same : same + half]:
            same += half
            left -= half
        else:
            left = half - 1
    return same
