# SPDX-License-Identifier: Apache-2.0
"""What is worked out from objects or maps, kept until one of these changes: most steps change little of what checkers look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

S = TypeVar("S")
R = TypeVar("R")


class Kept(Generic[S, R]):
    """`stamp` is another value whenever `work_out` may find something else. Nobody changes what was found."""

    def __init__(self, work_out: Callable[[S], R], stamp: Callable[[S], object]) -> None:
        self._work_out, self._stamp = work_out, stamp
        self._found: WeakKeyDictionary[S, tuple[object, R]] = WeakKeyDictionary()

    def __call__(self, subject: S) -> R:
        stamp = self._stamp(subject)
        known = self._found.get(subject)
        if known is not None and known[0] == stamp:
            return known[1]
        found = self._work_out(subject)
        self._found[subject] = stamp, found
        return found


def kept(stamp: Callable[[S], object]) -> Callable[[Callable[[S], R]], Kept[S, R]]:
    """A function of one argument whose results are kept as long as its stamp is the same."""
    return lambda work_out: Kept(work_out, stamp)
