# SPDX-License-Identifier: Apache-2.0
"""The DNS names that policies in force have as peers. Pure."""

from __future__ import annotations

from collections import Counter

from meshpolicy.peer import FqdnSelector
from meshpolicy.rule import Policy


class UsedNames:
    """Counts the policies that have each name or pattern."""

    def __init__(self) -> None:
        self._uses: Counter[FqdnSelector] = Counter()

    def replace(self, old: Policy | None, new: Policy | None) -> None:
        """The new policy is in force in place of the old one."""
        self._uses.update(new.names if new is not None else ())
        for selector in old.names if old is not None else ():
            self._uses[selector] -= 1
            if not self._uses[selector]:
                del self._uses[selector]

    def all(self) -> frozenset[FqdnSelector]:
        """Each that some policy has."""
        return frozenset(self._uses)
