# SPDX-License-Identifier: Apache-2.0
"""Which names may be asked for at which port of the DNS proxy: the file that outlives agent and proxy.

Shape: [[port, [[name, pattern], ...]], ...] in JSON, sorted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import orjson

from meshpolicy.dns_name import DnsRule, DnsRules

RULES: Final = "rules.json"


def encode_rules(rules: Mapping[int, DnsRules]) -> bytes:
    """Equal for equal rules."""
    return orjson.dumps([[port, [list(rule) for rule in sorted(rules[port])]] for port in sorted(rules)])


def decode_rules(data: bytes) -> dict[int, DnsRules]:
    """Raises: ValueError for anything but what `encode_rules` wrote."""
    try:
        return {
            int(port): frozenset(DnsRule(str(name), str(pattern)) for name, pattern in rules)
            for port, rules in orjson.loads(data)
        }
    except TypeError as exc:
        raise ValueError(f"no rules of the DNS proxy: {exc}") from exc
