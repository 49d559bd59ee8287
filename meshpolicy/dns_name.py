# SPDX-License-Identifier: Apache-2.0
"""DNS names as policies name them: one name, or a pattern of names. Pure.

Source: the `matchName` and `matchPattern` of Cilium's FQDNSelector and PortRuleDNS. `*` is any number of letters, digits,
`-` and `_` within one label, `**.` at the beginning one or more whole labels, `*` alone every name. Case does not matter,
nor does a dot at the end. Patterns are matched in time that grows with the name only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final, NamedTuple

import re2

EVERY_NAME_PATTERN: Final = "*"
_OF_SERVICES: Final = (".svc.cluster.local.", ".svc.clusterset.local.")
_REMEMBERED: Final = 4096
_LETTERS: Final = "[-a-z0-9_]"
_LABELS: Final = "**."


class DnsRule(NamedTuple):
    """One entry of a list of DNS names, about names that either part matches. An empty part matches nothing.

    Both parts are canonical: make it with `dns_rule`.
    """

    name: str = ""
    pattern: str = ""

    def matches(self, name: str) -> bool:
        """Whether the rule is about this canonical name."""
        return (bool(self.name) and self.name == name) or (bool(self.pattern) and matches_pattern(self.pattern, name))

    def __str__(self) -> str:
        named = (("name", self.name), ("pattern", self.pattern))
        return " or ".join(f"{word} {text}" for word, text in named if text) or "no name"


DnsRules = frozenset[DnsRule]
"""A name may be asked for that one of the rules is about."""
EVERY_NAME: Final = DnsRule("", EVERY_NAME_PATTERN)


def canonical(name: str) -> str:
    """The name in lower case with one dot at the end; the pattern `*` alone stays as it is."""
    lowered = name.lower().rstrip(".")
    return lowered if lowered == EVERY_NAME_PATTERN else f"{lowered}."


def dns_rule(match_name: str = "", match_pattern: str = "") -> DnsRule:
    """The rule of an entry as a policy writes it."""
    return DnsRule(canonical(match_name) if match_name else "", canonical(match_pattern) if match_pattern else "")


def is_of_service(name: str) -> bool:
    """Whether a canonical name is one of a Service: such a name is never of a host outside."""
    return name.endswith(_OF_SERVICES)


def matches_pattern(pattern: str, name: str) -> bool:
    """Whether a canonical pattern matches a canonical name. What is no host name is matched by `*` alone only."""
    return pattern == EVERY_NAME_PATTERN or _expression(pattern).fullmatch(name) is not None


def allows_name(rules: Iterable[DnsRule], name: str) -> bool:
    """Whether one of the rules is about the canonical name."""
    return any(rule.matches(name) for rule in rules)


@lru_cache(maxsize=_REMEMBERED)
def _expression(pattern: str) -> Any:
    head, rest = "", pattern
    if pattern.startswith(_LABELS):
        head, rest = rf"(?:{_LETTERS}+\.)+", pattern[len(_LABELS) :]
    parts = (re.escape(part) for part in re.split(r"\*+", rest))
    options = re2.Options()
    options.log_errors = False
    return re2.compile(head + f"{_LETTERS}*".join(parts), options)
