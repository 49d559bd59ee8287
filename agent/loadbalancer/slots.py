# SPDX-License-Identifier: Apache-2.0
"""Which slot holds which backend after a change. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def arrange(old: Sequence[T | None], new: Sequence[T]) -> list[T]:
    """Everything in `new`, each once, with as many slots as possible left as they are.

    Slots whose backend stays keep it; free slots are filled from what is missing, in order. A change of one backend
    among thousands is then one slot write, not thousands.
    """
    if not old:
        return list(new)
    wanted = set(new)
    if len(old) == len(new) and wanted.issuperset(old) and len(set(old)) == len(new):
        return [t for t in old if t is not None]
    placed: set[T] = set()
    holes: list[int] = []
    result: list[T | None] = list(old[: len(new)])
    for position, target in enumerate(result):
        if target is None or target not in wanted or target in placed:
            holes.append(position)
        else:
            placed.add(target)
    missing = iter([t for t in new if t not in placed])
    for position in holes:
        result[position] = next(missing)
    return [*(t for t in result if t is not None), *missing]
