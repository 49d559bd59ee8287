# SPDX-License-Identifier: Apache-2.0
"""One row that cannot be applied never stops the others of its batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

R = TypeVar("R")


def apply_rows(
    rows: Sequence[R], key: Callable[[R], Hashable], write: Callable[[Sequence[R]], None]
) -> dict[Hashable, Exception]:
    """Every row that can be written is written; returns the failures of the others by key.

    `write` is called with all rows, and after an exception with each half of them, down to single rows. So it must be
    idempotent, and must leave nothing behind for rows it did not write. A few bad rows among n cost O(log n) calls each.
    """
    if not rows:
        return {}
    try:
        write(rows)
    except Exception as exc:  # a batch item: whatever is wrong with one row is not the others' affair
        if len(rows) == 1:
            return {key(rows[0]): exc}
        middle = len(rows) // 2
        return apply_rows(rows[:middle], key, write) | apply_rows(rows[middle:], key, write)
    return {}
