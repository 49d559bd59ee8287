# SPDX-License-Identifier: Apache-2.0
"""Endpoint policies that were asked for, refreshed peer by peer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from meshpolicy.active_rules import EVERYONE, LOCALHOST, LOCALHOST_PAST_PROXY, NOBODY, BuiltIn, Templates
from meshpolicy.binding import ActiveRule
from meshpolicy.context import Enforcement, PolicyContext
from meshpolicy.endpoint_policy import DirectionPolicy, EndpointPolicy
from meshpolicy.entity import is_endpoint
from meshpolicy.errors import TooManyEntriesError
from meshpolicy.mapstate import ANY_IDENTITY, Group
from meshpolicy.port import NamedPorts
from meshpolicy.ports_of_pods import PortsOfPods
from meshpolicy.reference import Direction
from meshpolicy.selection import KnownIdentity, Selections
from meshpolicy.selector import RESERVED_SOURCE

MOST_ENTRIES: Final = 4_000_000
"""Of the rules of one direction of one endpoint, equal ones counted twice: more than any map holds, and seconds of work."""
_HOST: Final = 1
_PortsKey = tuple[tuple[str, tuple[int, int]], ...]
_Rules = tuple[tuple[ActiveRule, ...], tuple[ActiveRule, ...]]


class _View:
    """One policy, and what has changed since it was made: nothing, some peers, or everything (None)."""

    __slots__ = ("dirty", "policy", "ports")

    def __init__(self, ports: NamedPorts) -> None:
        self.ports = ports
        self.policy = EndpointPolicy()
        self.dirty: tuple[set[int], set[int]] | None = None


class _Posture(NamedTuple):
    """One direction of one endpoint: whether it is enforced, and by what.

    `anyone` are those of `rules` that name everybody. `is_closed`: a packet that no rule speaks about is denied.
    """

    enforced: bool = False
    rules: tuple[ActiveRule, ...] = ()
    anyone: tuple[ActiveRule, ...] = ()
    built_in: Mapping[int, tuple[BuiltIn, ...]] = {}
    is_closed: bool = False
    passes: bool = False
    """Whether an Admin rule passes something on."""
    closes_baseline: bool = False
    """Whether what a Baseline rule passes on is denied."""
    is_proxied: bool = False
    """Whether a rule looks into requests: what is said of everybody then counts together with what is said of one peer."""

    @property
    def default(self) -> BuiltIn:
        """What holds for packets that no rule speaks about."""
        return NOBODY if self.is_closed else EVERYONE

    def with_everyones(self, rules: tuple[ActiveRule, ...]) -> tuple[ActiveRule, ...]:
        """Rules and those that name everybody, sorted by number."""
        return tuple(sorted({*rules, *self.anyone}, key=lambda active: active.number))


class PolicyViews:
    """Policies by endpoint identity and named ports; touching marks, asking refreshes."""

    def __init__(self, context: PolicyContext, selections: Selections, templates: Templates, pods: PortsOfPods) -> None:
        self._pods = pods
        self._context = context
        self._selections = selections
        self._templates = templates
        self._views: dict[int, dict[_PortsKey, _View]] = {}

    def policy(self, number: int, ports: NamedPorts) -> EndpointPolicy:
        """The current policy of an identity with these port names."""
        view = self.track(number, ports)
        if view.dirty != (set(), set()):
            view.policy = self._refresh(number, view)
            view.dirty = (set(), set())
        return view.policy

    def track(self, number: int, ports: NamedPorts) -> _View:
        """The view of an identity with these port names; it is touched by changes from now on."""
        key = tuple(sorted(ports.items()))
        views = self._views.setdefault(number, {})
        view = views.get(key)
        if view is None:
            view = views[key] = _View({name.lower(): port for name, port in ports.items()})
        return view

    def tracked(self) -> Iterable[tuple[int, NamedPorts]]:
        """Every identity and set of port names that was asked for, sorted."""
        return [(number, dict(key)) for number in sorted(self._views) for key in sorted(self._views[number])]

    def forget(self, number: int) -> None:
        """The identity is not tracked any more."""
        self._views.pop(number, None)

    def touch_endpoint(self, number: int) -> set[int]:
        """Everything about an endpoint identity may have changed."""
        views = self._views.get(number)
        for view in (views or {}).values():
            view.dirty = None
        return {number} if views else set()

    def touch_identity(self, number: int, known: KnownIdentity) -> set[int]:
        """An identity comes or goes: as a peer of every endpoint whose rules select it, and as an endpoint."""
        touched = self.touch_endpoint(number)
        for selection in known.selections:
            for active in selection.peer_rules.values():
                touched |= self._mark(active, (number,))
        return touched

    def touch_rules(self, rules: Iterable[ActiveRule]) -> set[int]:
        """Rules come or go: for their peers, and for everyone, since default deny may change."""
        touched: set[int] = set()
        for active in rules:
            peers: set[int] = {ANY_IDENTITY, _HOST}
            if self._tracked(active):
                peers.update(*(selection.identities for selection in active.peers or ()))
                if active.peers is None:
                    peers.update(self._with_names(active))
            touched |= self._mark(active, peers)
        return touched

    def touch_ports(self, changed: Mapping[int, frozenset[str]]) -> set[int]:
        """Port names (by peer identity) have another meaning on egress."""
        touched: set[int] = set()
        names = frozenset[str]().union(*changed.values())
        if not names:
            return touched
        for number, views in self._views.items():
            egress = self.rules_of(number)[Direction.EGRESS]
            if not any(spec.name in names for active in egress for spec in active.names):
                continue
            touched.add(number)
            for view in views.values():
                if view.dirty is not None:
                    view.dirty[Direction.EGRESS].update(changed)
        return touched

    def rules_of(self, number: int) -> _Rules:
        """The rules that select an endpoint identity, by direction (egress first), sorted by number."""
        known = self._selections.identity(number)
        if known is None or not (number == _HOST or is_endpoint(known.labels)):
            return (), ()
        found = [
            active
            for selection in known.selections
            for active in selection.subject_rules.values()
            if active.rule.is_host == (number == _HOST)
        ]
        if all(active.is_guard for active in found):
            return (), ()
        found.sort(key=lambda active: active.number)
        return (
            tuple(active for active in found if active.direction is Direction.EGRESS),
            tuple(active for active in found if active.direction is Direction.INGRESS),
        )

    def _tracked(self, active: ActiveRule) -> Iterable[int]:
        subjects = active.subject.identities
        if len(subjects) < len(self._views):
            return [number for number in subjects if number in self._views]
        return [number for number in self._views if number in subjects]

    def _mark(self, active: ActiveRule, peers: Iterable[int]) -> set[int]:
        touched = set()
        for number in self._tracked(active):
            touched.add(number)
            for view in self._views[number].values():
                if number == _HOST:  # one direction is enforced because of a rule of the other
                    view.dirty = None
                elif view.dirty is not None:
                    view.dirty[active.direction].update(peers)
        return touched

    def _refresh(self, number: int, view: _View) -> EndpointPolicy:
        """The node is enforced in both directions or in none: what the guard lets in answers, also before it was tracked."""
        rules = self.rules_of(number)
        return EndpointPolicy(
            ingress=self._refresh_side(number, view, Direction.INGRESS, rules[Direction.INGRESS]),
            egress=self._refresh_side(number, view, Direction.EGRESS, rules[Direction.EGRESS]),
        )

    def _refresh_side(
        self, number: int, view: _View, direction: Direction, rules: tuple[ActiveRule, ...]
    ) -> DirectionPolicy:
        dirty = None if view.dirty is None else view.dirty[direction]
        old = view.policy.side(direction)
        if dirty is not None and not dirty:
            return old
        posture = self._posture(number, direction, rules)
        if not posture.enforced:
            return DirectionPolicy()
        _check_size(posture.rules)
        if dirty is None or not old.enforced:
            return DirectionPolicy(True, self._compile(posture, view.ports), posture.is_proxied)
        if ANY_IDENTITY in dirty and (posture.is_proxied or old.is_proxied):
            return DirectionPolicy(True, self._compile(posture, view.ports), posture.is_proxied)
        if ANY_IDENTITY in dirty:
            dirty = dirty | _depending_on_others(rules)
        return DirectionPolicy(True, self._patch(old.groups, dirty, posture, view.ports), posture.is_proxied)

    def _posture(self, number: int, direction: Direction, rules: tuple[ActiveRule, ...]) -> _Posture:
        """Whether a direction is enforced, by which rules, and the entries that no policy wrote."""
        known = self._selections.identity(number)
        is_subject = known is None or is_endpoint(known.labels)
        is_init = known is None or any(
            label.source == RESERVED_SOURCE and label.key == "init" for label in known.labels
        )
        mode = self._context.enforcement
        forced = is_subject and (is_init or mode is Enforcement.ALWAYS)
        built_in: dict[int, tuple[BuiltIn, ...]] = {}
        if mode is Enforcement.NEVER or not (rules or forced or (number == _HOST and any(self.rules_of(number)))):
            return _Posture()
        default_deny = any(active.rule.default_deny for active in rules)
        if default_deny:  # the middle tier decides whatever reaches it, so that the Baseline tier is never asked
            rules = tuple(active for active in rules if not active.is_baseline)
        is_proxied = any(active.rule.is_proxied for active in rules)
        if direction is Direction.INGRESS and self._context.allow_localhost and number != _HOST:
            built_in[_HOST] = (LOCALHOST_PAST_PROXY if is_proxied else LOCALHOST,)
        if not forced and not default_deny:
            built_in[ANY_IDENTITY] = (EVERYONE,)
        return _Posture(
            True,
            rules,
            tuple(active for active in rules if active.peers is None and (active.keys or active.names)),
            built_in,
            is_closed=forced or default_deny,
            passes=any(active.is_admin_pass for active in rules),
            closes_baseline=forced and any(active.is_baseline and active.rule.passes for active in rules),
            is_proxied=is_proxied,
        )

    def _compile(self, posture: _Posture, ports: NamedPorts) -> Mapping[int, Group]:
        """All groups of one direction."""
        parts: dict[int, list[ActiveRule]] = {peer: [] for peer in posture.built_in}
        for active in posture.rules:
            if not (active.keys or active.names):
                continue
            peers: Iterable[int] = (
                (ANY_IDENTITY,)
                if active.peers is None
                else active.peers[0].identities
                if len(active.peers) == 1
                else set().union(*(selection.identities for selection in active.peers))
            )
            if active.peers is None and active.resolves_at_peers:
                peers = (ANY_IDENTITY, *sorted(self._with_names(active)))
            for peer in peers:
                parts.setdefault(peer, []).append(active)
        return self._groups({peer: tuple(found) for peer, found in parts.items()}, posture, ports)

    def _patch(
        self, groups: Mapping[int, Group], dirty: Iterable[int], posture: _Posture, ports: NamedPorts
    ) -> Mapping[int, Group]:
        """The groups with only the dirty peers made anew."""
        own = {active.number: active for active in posture.rules}
        patched = dict(groups)
        parts: dict[int, tuple[ActiveRule, ...]] = {}
        for peer in dirty:
            patched.pop(peer, None)
            parts[peer] = posture.anyone if peer == ANY_IDENTITY else self._rules_for(peer, own)
        patched.update(self._groups(parts, posture, ports))
        return patched

    def _rules_for(self, peer: int, own: Mapping[int, ActiveRule]) -> tuple[ActiveRule, ...]:
        """The rules among an endpoint's own that select a peer, sorted by number."""
        known = self._selections.identity(peer)
        by_name = {n for n, active in own.items() if active.peers is None and peer in self._with_names(active)}
        numbers = by_name | {
            number
            for selection in (known.selections if known is not None else ())
            for number in (own.keys() & selection.peer_rules.keys())
        }
        return tuple(own[number] for number in sorted(numbers))

    def _with_names(self, active: ActiveRule) -> set[int]:
        """The peers for which a rule that names everybody has entries of their own: those that define its port names."""
        if not active.resolves_at_peers:
            return set()
        return self._pods.identities_with(spec.name for spec in active.names)

    def _groups(
        self, parts: Mapping[int, tuple[ActiveRule, ...]], posture: _Posture, ports: NamedPorts
    ) -> dict[int, Group]:
        found = {}
        for peer, rules in parts.items():
            extra = posture.built_in.get(peer, ())
            if posture.passes and any(active.is_admin_pass for active in rules):
                rules, extra = posture.with_everyones(rules), (*extra, posture.default)  # noqa: PLW2901
            elif posture.is_proxied and (rules or extra):
                rules = posture.with_everyones(rules)  # noqa: PLW2901
            if rules or extra:
                group = self._templates.group(peer, rules, extra, ports, is_closed=posture.closes_baseline)
                if group:
                    found[peer] = group
        return found


def _check_size(rules: Iterable[ActiveRule]) -> None:
    """Raises: TooManyEntriesError, before any of them is made."""
    entries = sum(
        (len(active.keys) + len(active.names)) * sum(len(selection.identities) for selection in active.peers)
        for active in rules
        if active.peers is not None
    )
    if entries > MOST_ENTRIES:
        raise TooManyEntriesError(entries, MOST_ENTRIES)


def _depending_on_others(rules: Iterable[ActiveRule]) -> set[int]:
    """Peers of which the entries may change with a rule that does not name them.

    Those of rules that pass something on, whose groups answer for rules that name everybody; and those of Baseline
    rules, which count only without default deny.
    """
    return {
        number
        for active in rules
        if active.is_admin_pass or active.is_baseline
        for selection in active.peers or ()
        for number in selection.identities
    }
