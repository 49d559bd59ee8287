# SPDX-License-Identifier: Apache-2.0
"""In which order address ranges get and lose their identities, so that no packet meets half of a change.

A range that a document names is known to the verdicts before an address has its identity, and addresses have it before
the document is in force: otherwise the rest of what it says would hold for addresses that it excepts or denies. A range
that no document names any more goes the same way back.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import NamedTuple

from meshpolicy.prefix import Cidr


class WriteProgress(NamedTuple):
    """How far the kernel is with what was put into the tables of verdicts and of addresses."""

    has_begun: Callable[[], bool]
    are_verdicts_written: Callable[[], bool]
    are_addresses_written: Callable[[], bool]


class RangeOrder:
    """Ranges on their way; what is named by documents in force and is known to everybody is not here.

    New until the next verdicts are computed, coming until these are written, shown until the addresses are, settled until
    the document is in force; then fresh, leaving and left in the same way.
    """

    def __init__(self, progress: WriteProgress | None) -> None:
        self._progress = progress
        self._new: set[Cidr] = set()
        self._coming: set[Cidr] = set()
        self._shown: set[Cidr] = set()
        self._settled: set[Cidr] = set()
        self._fresh: set[Cidr] = set()
        self._leaving: set[Cidr] = set()
        self._left: set[Cidr] = set()

    @property
    def has_order(self) -> bool:
        """This agent writes, and says how far it is: before, what it holds back would only come later."""
        return self._progress is not None and self._progress.has_begun()

    @property
    def held(self) -> frozenset[Cidr]:
        """What has an identity whether or not a document in force names it."""
        parts = (self._new, self._coming, self._shown, self._settled, self._fresh, self._leaving, self._left)
        return frozenset().union(*parts)

    @property
    def hidden(self) -> frozenset[Cidr]:
        """What no address shall have."""
        return frozenset(self._new | self._coming | self._left)

    @property
    def unready(self) -> frozenset[Cidr]:
        """What addresses do not have yet, or not for sure."""
        return self.hidden | self._shown

    def arrive(self, ranges: Iterable[Cidr], known: Container[Cidr]) -> None:
        """A document waits for these ranges; `known` are those that have an identity."""
        for one in set(ranges) - self._new - self._coming - self._shown - self._settled:
            if one in self._left:
                self._left.discard(one)
                self._coming.add(one)
            elif one not in known:
                self._new.add(one)

    def leave(self, ranges: Iterable[Cidr]) -> bool:
        """No document names them any more; False where nobody says how far the kernel is, so that they go at once."""
        if self._progress is None:
            return False
        self._fresh |= set(ranges) - self.held
        return True

    def keep(self, named: frozenset[Cidr], awaited: frozenset[Cidr]) -> None:
        """Documents in force name these, and others wait for those; the rest goes."""
        for part in (self._settled, self._fresh, self._leaving):
            part.difference_update(named)
        back = self._left & named
        self._left -= back
        self._coming |= back
        gone = self._settled - awaited
        self._settled -= gone
        self._fresh |= gone

    def advance(self) -> bool:
        """As far as the kernel is by now; whether anything went on."""
        before = self._counts()
        if self._progress is None or not self._progress.has_begun():
            return False
        if self._progress.are_addresses_written():
            self._left = set()
            self._settled |= self._shown
            self._shown = set()
        if self._progress.are_verdicts_written():
            self._left |= self._leaving
            self._shown |= self._coming
            self._leaving, self._coming = set(), set()
        return before != self._counts()

    def note_verdicts(self) -> None:
        """Verdicts were computed that know what is new, and no longer need what is gone."""
        self._coming |= self._new
        self._leaving |= self._fresh
        self._new, self._fresh = set(), set()

    def _counts(self) -> tuple[int, ...]:
        return len(self._coming), len(self._shown), len(self._leaving), len(self._left)
