# SPDX-License-Identifier: Apache-2.0
"""Which policy rule a map value names."""

from __future__ import annotations

from collections.abc import Callable

from meshpolicy import Engine, RuleOrigin


class RuleNumbers:
    """`engine` is the one in force. Its rules are read once until `clear`, since flows ask for each packet."""

    def __init__(self, engine: Callable[[], Engine]) -> None:
        self._engine = engine
        self._known: dict[int, RuleOrigin] | None = None

    def clear(self) -> None:
        """Other policies are in force."""
        self._known = None

    def origin(self, number: int) -> RuleOrigin | None:
        """The policy rule that a map value names, None if it is none of ours."""
        if self._known is None:
            rules = (rule for policy in self._engine().policies() for rule in policy.rules)
            self._known = {rule.origin.number: rule.origin for rule in rules}
        return self._known.get(number)
