# SPDX-License-Identifier: Apache-2.0
"""Which slot holds which backend after a change. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

T = TypeVar("T")
FEW: Final = 16


def replace_few(old: Sequence[T], size: int, gained: Sequence[T], lost: Sequence[T]) -> list[T]:
    """As `arrange` where everything stands once, and only these come and go: at the cost of them, not of all.

    `size`: how many there are afterwards.
    """
    result, gone = list(old[:size]), set(lost)
    missing = [*(t for t in old[size:] if t not in gone), *gained]
    holes = sorted(position for t in lost if (position := old.index(t)) < size)
    for position, target in zip(holes, missing, strict=False):
        result[position] = target
    return result + missing[len(holes) :]


def arrange(old: Sequence[T | None], new: Sequence[T]) -> list[T]:
    """Everything in `new`, each as often as it stands there, with as many slots as possible left as they are.

    Slots whose backend stays keep it; free slots are filled from what is missing, in order. A change of one backend
    among thousands is then one slot write, not thousands.
    """
    if not old:
        return list(new)
    once = set(new)
    if len(once) == len(new) and len(old) == len(new) and once.issuperset(old) and len(set(old)) == len(new):
        return [t for t in old if t is not None]
    result: list[T | None] = list(old[: len(new)])
    holes, missing = _once(result, once, new) if len(once) == len(new) else _often(result, new)
    for position in holes:
        result[position] = next(missing)
    return [*(t for t in result if t is not None), *missing]


def _once(result: Sequence[T | None], wanted: set[T], new: Sequence[T]) -> tuple[list[int], Iterator[T]]:
    """Positions to fill, and with what; everything stands in `new` once."""
    placed: set[T] = set()
    holes: list[int] = []
    for position, target in enumerate(result):
        if target is None or target not in wanted or target in placed:
            holes.append(position)
        else:
            placed.add(target)
    return holes, iter([t for t in new if t not in placed])


def _often(result: Sequence[T | None], new: Sequence[T]) -> tuple[list[int], Iterator[T]]:
    """The same where some stand there several times."""
    wanted = Counter(new)
    holes: list[int] = []
    for position, target in enumerate(result):
        if target is None or not wanted.get(target):
            holes.append(position)
        else:
            wanted[target] -= 1
    return holes, wanted.elements()
