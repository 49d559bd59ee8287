# SPDX-License-Identifier: Apache-2.0
"""Which names may be asked for at which port of the DNS proxy: the file that outlives agent and proxy.

Shape: {"ports": [[port, [[name, pattern], ...]], ...], "refusal": response code of other names} in JSON, sorted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import orjson

from agent.dns.message import REFUSED
from meshpolicy.dns_name import DnsRule, DnsRules

_LARGEST_CODE: Final = 15


class RuleFile(NamedTuple):
    """What the file says: rules by port, and the response code of a name that they do not allow."""

    rules: Mapping[int, DnsRules]
    refusal: int = REFUSED


def encode_rules(found: RuleFile) -> bytes:
    """Equal for equal rules."""
    ports = [[port, [list(rule) for rule in sorted(found.rules[port])]] for port in sorted(found.rules)]
    return orjson.dumps({"ports": ports, "refusal": found.refusal})


def decode_rules(data: bytes) -> RuleFile:
    """Raises: ValueError for anything but what `encode_rules` wrote."""
    try:
        said = orjson.loads(data)
        rules = {
            int(port): frozenset(DnsRule(str(name), str(pattern)) for name, pattern in rules)
            for port, rules in said["ports"]
        }
        refusal = int(said["refusal"])
    except (TypeError, KeyError) as exc:
        raise ValueError(f"no rules of the DNS proxy: {exc!r}") from exc
    if not 0 < refusal <= _LARGEST_CODE:
        raise ValueError(f"no response code that refuses: {refusal}")
    return RuleFile(rules, refusal)
