# SPDX-License-Identifier: Apache-2.0
"""How many flows a ring may keep: what settings need to know of it, without the generated messages. Pure."""

from __future__ import annotations

from typing import Final

from flows.errors import RequestError

DEFAULT_CAPACITY: Final = 4095
LARGEST: Final = (1 << 20) - 1


def check_capacity(capacity: int) -> int:
    """The capacity, one less than a power of two. Raises: RequestError."""
    if not 1 <= capacity <= LARGEST or capacity & (capacity + 1):
        nearest = min(max((1 << max(capacity, 1).bit_length()) - 1, 1), LARGEST)
        raise RequestError(f"a ring of {capacity} flows: it is one less than a power of two, such as {nearest}")
    return capacity
