# SPDX-License-Identifier: Apache-2.0
"""Long work in pieces, so that others get their turn between two of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def in_parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in their order, at most `size` at a time; taken from `items` only when their turn comes."""
    left = iter(items)
    while part := list(islice(left, size)):
        yield part
