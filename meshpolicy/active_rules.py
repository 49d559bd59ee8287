# SPDX-License-Identifier: Apache-2.0
"""Rules in force, and the groups of entries that sets of them make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from meshpolicy.binding import ActiveRule
from meshpolicy.mapstate import Group, PolicyEntry, compile_group, precedence
from meshpolicy.passed_group import Part, compile_passed_group
from meshpolicy.peer import BoundSelector
from meshpolicy.port import EVERYTHING, L4Key, NamedPorts, PortSpec
from meshpolicy.ports_of_pods import PortsOfPods
from meshpolicy.proxied import KeyedRule, redirect
from meshpolicy.proxy_ports import ProxyPorts
from meshpolicy.reference import ALLOW_ALL, ALLOW_LOCALHOST, DEFAULT_DENY, Direction
from meshpolicy.rule import Rule
from meshpolicy.selection import Selections
from meshpolicy.tier import Level

BuiltIn = tuple[tuple[L4Key, ...], PolicyEntry]
LOCALHOST: Final[BuiltIn] = (
    (EVERYTHING,),
    PolicyEntry(False, precedence(Level.NORMAL, deny=False), 0, ALLOW_LOCALHOST),
)
LOCALHOST_PAST_PROXY: Final[BuiltIn] = (
    (EVERYTHING,),
    PolicyEntry(False, precedence(Level.NORMAL, deny=False, never_proxied=True), 0, ALLOW_LOCALHOST),
)
EVERYONE: Final[BuiltIn] = (
    (EVERYTHING,),
    PolicyEntry(deny=False, precedence=precedence(Level.DEFAULT, deny=False), proxy_port=0, rule=ALLOW_ALL),
)
NOBODY: Final[BuiltIn] = (
    (EVERYTHING,),
    PolicyEntry(deny=True, precedence=precedence(Level.DEFAULT, deny=True), proxy_port=0, rule=DEFAULT_DENY),
)


def activate(
    number: int,
    rule: Rule,
    peers: tuple[BoundSelector, ...] | None,
    selections: Selections,
) -> ActiveRule:
    """Bind a rule to the selections of its subject and peers."""
    subject = selections.acquire(rule.subject)
    bound = None if peers is None else tuple(selections.acquire(peer) for peer in peers)
    active = ActiveRule(number, rule, subject, bound)
    subject.subject_rules[number] = active
    if active.keys or active.names:
        for selection in bound or ():
            selection.peer_rules[number] = active
    return active


class Templates:
    """Groups by the set of rules that make them. Peers that the same rules select share one group."""

    def __init__(self, pods: PortsOfPods, proxy_ports: ProxyPorts | None = None) -> None:
        self._pods, self._proxy_ports = pods, proxy_ports
        self._groups: dict[tuple[object, ...], Group] = {}
        self._uses: dict[int, set[tuple[object, ...]]] = {}

    def group(
        self,
        peer: int,
        rules: tuple[ActiveRule, ...],
        built_in: tuple[BuiltIn, ...],
        ports: NamedPorts,
        *,
        is_closed: bool = False,
    ) -> Group:
        """The entries that rules (of one direction, sorted by number) make for a peer that all of them select.

        `is_closed`: what Baseline rules pass on is denied, not allowed. If an Admin rule passes something on, `rules` are
        also those that name everybody, and one of `built_in` is about every packet.
        """
        resolved = tuple(
            (active.number, *specs)
            for active in rules
            if active.names and (specs := self._resolve(active, peer, ports))
        )
        numbers = tuple(active.number for active in rules)
        key = (numbers, built_in, resolved, is_closed)
        known = self._groups.get(key)
        if known is not None:
            return known
        named: Mapping[int, tuple[PortSpec, ...]] = {number: specs for number, *specs in resolved}  # type: ignore[misc]
        parts: Iterable[KeyedRule] = [
            (self._keys(active, named), _entry(active, is_closed=is_closed), active) for active in rules
        ]
        if self._proxy_ports is not None and any(active.rule.is_proxied for active in rules):
            parts = redirect(parts, self._proxy_ports)
        if any(active.is_admin_pass for active in rules):
            of_rules = (Part(k, e, active.is_admin_pass, active.peers is not None) for k, e, active in parts)
            extras = (Part(*extra, names_peer=extra in (LOCALHOST, LOCALHOST_PAST_PROXY)) for extra in built_in)
            group = compile_passed_group((*of_rules, *extras))
        else:
            group = compile_group((*((keys, entry) for keys, entry, _ in parts), *built_in))
        self._groups[key] = group
        for number in numbers:
            self._uses.setdefault(number, set()).add(key)
        return group

    def discard(self, number: int) -> None:
        """Forget every group that a rule took part in."""
        for key in self._uses.pop(number, ()):
            self._groups.pop(key, None)

    def _keys(self, active: ActiveRule, named: Mapping[int, tuple[PortSpec, ...]]) -> tuple[L4Key, ...]:
        specs = named.get(active.number, ())
        return (*active.keys, *(key for spec in specs for key in spec.map_keys())) if specs else active.keys

    def _resolve(self, active: ActiveRule, peer: int, ports: NamedPorts) -> tuple[PortSpec, ...]:
        """Names on ingress are the endpoint's own ports; on egress they are the peer's."""
        if active.direction is Direction.INGRESS:
            return tuple(found for spec in active.names if (found := spec.resolved(ports)) is not None)
        return tuple(found for spec in active.names for found in self._pods.resolve(spec, peer))


def _entry(active: ActiveRule, *, is_closed: bool) -> PolicyEntry:
    """The entry of a rule. Behind the Baseline tier is the default: what a rule passes on there is decided by it."""
    return active.entry._replace(deny=True) if is_closed and active.is_baseline and active.rule.passes else active.entry
