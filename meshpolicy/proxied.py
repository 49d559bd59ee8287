# SPDX-License-Identifier: Apache-2.0
"""Entries for a peer of which rules look into requests: all that is said about one key becomes one listener's rules. Pure.

Requests that any rule of the key allows are allowed; a rule of the same key that looks into nothing allows them all, and
they go through the proxy nevertheless, so that they are seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from meshpolicy.binding import ActiveRule
from meshpolicy.http_rule import EVERY_REQUEST, HttpRules
from meshpolicy.mapstate import PolicyEntry, level_of, precedence
from meshpolicy.port import L4Key
from meshpolicy.proxy_ports import Listener, ProxyPorts
from meshpolicy.reference import RuleOrigin
from meshpolicy.tier import Level

KeyedRule = tuple[tuple[L4Key, ...], PolicyEntry, ActiveRule]


def redirect(parts: Iterable[KeyedRule], ports: ProxyPorts) -> Iterator[KeyedRule]:
    """The parts, with an entry for each proxied key in place of those of the rules that look into requests."""
    requests: dict[L4Key, HttpRules] = {}
    first: dict[L4Key, ActiveRule] = {}
    plain: list[KeyedRule] = []
    for keys, entry, active in parts:
        http = active.rule.http
        if http is None:
            plain.append((keys, entry, active))
            continue
        for key in keys:
            requests[key] = requests.get(key, frozenset()) | http
            known = first.get(key)
            if known is None or active.rule.origin < known.rule.origin:
                first[key] = active
    for keys, entry, _ in plain:
        if not entry.deny and level_of(entry) == Level.NORMAL:
            for key in keys:
                if key in requests:
                    requests[key] = frozenset((EVERY_REQUEST,))
    yield from plain
    for key, rules in requests.items():
        active = first[key]
        yield (key,), redirect_entry(active.rule.origin, ports.port(Listener(active.direction, rules))), active


def redirect_entry(origin: RuleOrigin, port: int) -> PolicyEntry:
    """To the proxy at a port; where there was no port left, nothing gets through."""
    denies = not port
    return PolicyEntry(denies, precedence(Level.NORMAL, deny=denies, proxied=not denies), port, origin)
