# SPDX-License-Identifier: Apache-2.0
"""Which ports the DNS proxy has: from before the first policy entry names one until after the last one did. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from meshpolicy.dns_name import DnsRules

STAY_S: Final = 30.0
"""How long a port is there that no policy entry names, so that none is without one while entries change."""


class PortRules:
    """Rules by port, each until a time of the monotonic clock; times are in seconds."""

    def __init__(self) -> None:
        self._rules: dict[int, DnsRules] = {}
        self._until_s: dict[int, float] = {}

    @property
    def rules(self) -> Mapping[int, DnsRules]:
        """Those that are there now."""
        return self._rules

    def add(self, rules: Mapping[int, DnsRules], until_s: float) -> None:
        """These are there at least until then."""
        for port, names in rules.items():
            self._rules[port] = names
            self._until_s[port] = max(until_s, self._until_s.get(port, 0.0))

    def set_used(self, rules: Mapping[int, DnsRules], now_s: float) -> None:
        """Policy entries name these, and no others."""
        for port, until_s in self._until_s.items():
            if until_s == math.inf and port not in rules:
                self._until_s[port] = now_s + STAY_S
        self.add(rules, math.inf)

    def expire(self, now_s: float) -> float | None:
        """Those whose time has passed are gone; returns when the next one goes, None if none does."""
        for port in [port for port, until_s in self._until_s.items() if until_s <= now_s]:
            del self._rules[port], self._until_s[port]
        return min((until_s for until_s in self._until_s.values() if until_s < math.inf), default=None)
