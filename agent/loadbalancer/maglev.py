# SPDX-License-Identifier: Apache-2.0
"""Maglev tables: which backend each hash of a connection stands for, alike on every node that has the same backends. Pure.

Each backend has an order of slots of its own, from its name alone, and takes the first free one whenever it is its turn. So
shares are even, and a backend that comes or goes moves few slots of the others. A table is the slots of a frontend, in order.
Source: D. Eisenbud et al., Maglev: A Fast and Reliable Software Network Load Balancer, NSDI 2016, section 3.4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from agent.tables import Target
from meshmodel.algorithm import MAGLEV_SIZES

_KEPT: Final = 256


@lru_cache(maxsize=_KEPT)
def maglev_table(targets: tuple[Target, ...], size: int) -> tuple[Target, ...]:
    """The slots; a target that stands several times in `targets` gets so many times the slots of one that stands there once.

    `size` is one of MAGLEV_SIZES; where it has no slot for each target the next one that has is taken, and if none has, the
    slots are `targets` as they are.
    """
    counts = Counter(targets)
    size = next((each for each in MAGLEV_SIZES if each >= max(size, len(counts))), 0)
    return _fill(counts, size) if counts and size else targets


def _fill(counts: Mapping[Target, int], size: int) -> tuple[Target, ...]:
    slots: list[Target | None] = [None] * size
    order = sorted(counts)
    heaviest = max(counts.values())
    credit = dict.fromkeys(order, 0)
    position, step = {}, {}
    for target in order:
        digest = blake2b(repr(tuple(target)).encode(), digest_size=16).digest()
        position[target] = int.from_bytes(digest[:8], "big") % size
        step[target] = int.from_bytes(digest[8:], "big") % (size - 1) + 1
    left = size
    while True:
        for target in order:
            credit[target] += counts[target]
            if credit[target] < heaviest:
                continue
            credit[target] -= heaviest
            at = position[target]
            while slots[at] is not None:
                at = (at + step[target]) % size
            slots[at], position[target] = target, (at + step[target]) % size
            left -= 1
            if not left:
                return tuple(slot for slot in slots if slot is not None)
