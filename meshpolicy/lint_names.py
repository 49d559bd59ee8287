# SPDX-License-Identifier: Apache-2.0
"""What goes wrong with DNS names: a peer by its name is reached only once somebody saw which addresses the name has. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from meshpolicy.dns_name import DnsRule, allows_name, dns_rule
from meshpolicy.peer import FqdnSelector
from meshpolicy.proxy_ports import DNS
from meshpolicy.reference import Direction
from meshpolicy.rule import Policy, Rule


def unseen_names(policies: Sequence[Policy]) -> Iterator[tuple[Rule, str]]:
    """Rules to names for which no rule lets anybody ask where it is seen, with those names."""
    asked = frozenset(_rules_about_names(policies))
    for policy in policies:
        for rule in policy.rules:
            unseen = [
                str(peer) for peer in rule.peers or () if isinstance(peer, FqdnSelector) and not _is_seen(peer, asked)
            ]
            if unseen and rule.direction is Direction.EGRESS and not rule.deny:
                yield rule, ", ".join(dict.fromkeys(unseen))


def _rules_about_names(policies: Iterable[Policy]) -> Iterator[DnsRule]:
    for policy in policies:
        for rule in policy.rules:
            yield from rule.dns or ()
            if any(l7.kind == DNS and l7.allows_every_name for l7 in rule.l7):
                yield dns_rule(match_pattern="*")


def _is_seen(peer: FqdnSelector, asked: Iterable[DnsRule]) -> bool:
    """Whether some question for such a name is seen; of a pattern, that one is about the same or more is all that is known."""
    own = dns_rule(peer.match_name, peer.match_pattern)
    if own.name:
        return allows_name(asked, own.name)
    # a name that the pattern matches, as an example of all of them
    example = own.pattern.replace("**.", "a.a.").replace("*", "a")
    return own in asked or allows_name(asked, example)
