# SPDX-License-Identifier: Apache-2.0
"""Entries for a peer of which rules look into requests: all that is said about one key becomes one listener's rules. Pure.

Requests that any rule of the key allows are allowed, and names alike; a rule of the same key that looks into nothing allows
them all, and they go through the proxy nevertheless, so that they are seen. Rules about requests and about servers' names go
together: the former are about connections without TLS. A key that both these and names to ask for are about is denied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from meshpolicy.binding import ActiveRule
from meshpolicy.dns_name import EVERY_NAME
from meshpolicy.http_rule import EVERY_REQUEST
from meshpolicy.mapstate import PolicyEntry, level_of, precedence
from meshpolicy.port import L4Key
from meshpolicy.proxy_ports import Listener, ProxyPorts
from meshpolicy.reference import RuleOrigin
from meshpolicy.server_name import EVERY_CONNECTION
from meshpolicy.tier import Level

MOST_ACTIONS: Final = 128
"""Actions on headers of one key's rules: each costs every request of the pods some 50 microseconds of a proxy that is shared."""
KeyedRule = tuple[tuple[L4Key, ...], PolicyEntry, ActiveRule]


def redirect(parts: Iterable[KeyedRule], ports: ProxyPorts) -> Iterator[KeyedRule]:
    """The parts, with an entry for each proxied key in place of those of the rules that look into requests."""
    wanted: dict[L4Key, Listener | None] = {}
    first: dict[L4Key, ActiveRule] = {}
    plain: list[KeyedRule] = []
    for keys, entry, active in parts:
        if not active.rule.is_proxied:
            plain.append((keys, entry, active))
            continue
        rule = active.rule
        made = Listener(active.direction, rule.http or frozenset(), rule.dns, rule.servers)
        for key in keys:
            wanted[key] = _united(wanted[key], made) if key in wanted else made
            known = first.get(key)
            if known is None or active.rule.origin < known.rule.origin:
                first[key] = active
    for keys, entry, _ in plain:
        if not entry.deny and level_of(entry) == Level.NORMAL:
            for key in keys:
                if (listener := wanted.get(key)) is not None:
                    wanted[key] = _open(listener)
    yield from plain
    for key, listener in wanted.items():
        active = first[key]
        yield (key,), redirect_entry(active.rule.origin, _port(listener, ports)), active


def _port(listener: Listener | None, ports: ProxyPorts) -> int:
    """Where that is enforced; 0 if it cannot be, of which `ports` take a note."""
    if listener is None:
        ports.mixed = True
        return 0
    if sum(len(rule.actions) for rule in listener.rules) > MOST_ACTIONS:
        ports.laden = True
        return 0
    return ports.port(listener)


def _united(one: Listener | None, other: Listener) -> Listener | None:
    """What allows what either allows; None if they are about different things."""
    if one is None or (one.names is None) != (other.names is None):
        return None
    names = one.names | other.names if one.names is not None and other.names is not None else None
    servers = one.servers if other.servers is None else other.servers | (one.servers or frozenset())
    return Listener(one.direction, one.rules | other.rules, names, servers)


def _open(listener: Listener) -> Listener:
    """What sees everything and allows it."""
    if listener.names is not None:
        return listener._replace(names=frozenset((EVERY_NAME,)))
    return listener._replace(
        rules=frozenset((EVERY_REQUEST, *(r for r in listener.rules if r.actions)))
        if listener.rules
        else listener.rules,
        servers=None if listener.servers is None else frozenset((EVERY_CONNECTION,)),
    )


def redirect_entry(origin: RuleOrigin, port: int) -> PolicyEntry:
    """To the proxy at a port; where there was no port left, nothing gets through."""
    denies = not port
    return PolicyEntry(denies, precedence(Level.NORMAL, deny=denies, proxied=not denies), port, origin)
