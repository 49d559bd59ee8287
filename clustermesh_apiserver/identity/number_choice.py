# SPDX-License-Identifier: Apache-2.0
"""Which number stands for which label set, and which number a new one gets. Pure.

A new number follows from the labels alone: every replica tries the same one first, so two of them meet at the same
object instead of making two, and an identity that was deleted comes back under its old number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from meshmodel.identity import FIRST_ALLOCATED, IdentityRange
from meshmodel.labels import Labels, encode_labels


class IdentityBook:
    """Every identity that exists as an object, by number and by labels."""

    def __init__(self, numbers: IdentityRange) -> None:
        # the lowest numbers of every range are left alone, as those of cluster 0 are the reserved ones
        self._first, self._size = numbers.first + FIRST_ALLOCATED, numbers.last - numbers.first - FIRST_ALLOCATED + 1
        self._labels: dict[int, Labels] = {}
        self._numbers: dict[Labels, set[int]] = {}

    def set_identity(self, number: int, labels: Labels) -> None:
        """The number stands for these labels."""
        self.forget(number)
        self._labels[number] = labels
        self._numbers.setdefault(labels, set()).add(number)

    def forget(self, number: int) -> None:
        """The number stands for nothing."""
        labels = self._labels.pop(number, None)
        if labels is None:
            return
        numbers = self._numbers[labels]
        numbers.discard(number)
        if not numbers:
            del self._numbers[labels]

    def number_of(self, labels: Labels) -> int | None:
        """The lowest number that stands for the labels: the same one for everybody who asks."""
        numbers = self._numbers.get(labels)
        return min(numbers) if numbers else None

    def labels_of(self, number: int) -> Labels | None:
        return self._labels.get(number)

    def candidates(self, labels: Labels) -> Iterator[int]:
        """Numbers that are free as far as we know, the one that follows from the labels first."""
        digest = hashlib.sha256(encode_labels(labels)).digest()
        start = int.from_bytes(digest[:8], "big") % self._size
        for step in range(self._size):
            number = self._first + (start + step) % self._size
            if number not in self._labels:
                yield number

    def numbers(self) -> Iterator[int]:
        """Every known number, in order."""
        return iter(sorted(self._labels))

    def __len__(self) -> int:
        return len(self._labels)


class Grace:
    """How long each number has been out of use, so that it is not deleted under a pod that is just being replaced."""

    def __init__(self, grace_s: float) -> None:
        self.grace_s = grace_s
        self._unused_since: dict[int, float] = {}

    def expired(self, unused: set[int], now: float) -> list[int]:
        """The numbers that have been unused at every look for the whole grace."""
        self._unused_since = {number: self._unused_since.get(number, now) for number in unused}
        return sorted(number for number, since in self._unused_since.items() if now - since >= self.grace_s)
