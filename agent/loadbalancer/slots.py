# SPDX-License-Identifier: Apache-2.0
"""Which slot holds which backend after a change. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def arrange(old: Sequence[T | None], new: Sequence[T]) -> list[T]:
    """Everything in `new`, each as often as it stands there, with as many slots as possible left as they are.

    Slots whose backend stays keep it; free slots are filled from what is missing, in order. A change of one backend
    among thousands is then one slot write, not thousands.
    """
    if not old:
        return list(new)
    wanted = Counter(new)
    if len(old) == len(new) and len(set(old)) == len(wanted) == len(new) and wanted.keys() >= set(old):
        return [t for t in old if t is not None]
    holes: list[int] = []
    result: list[T | None] = list(old[: len(new)])
    for position, target in enumerate(result):
        if target is None or not wanted.get(target):
            holes.append(position)
        else:
            wanted[target] -= 1
    missing = wanted.elements()
    for position in holes:
        result[position] = next(missing)
    return [*(t for t in result if t is not None), *missing]
