# SPDX-License-Identifier: Apache-2.0
"""Rules and identities in, endpoint policies out; a change recomputes only what it can have changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from types import MappingProxyType
from typing import NamedTuple

from meshmodel.identity import LOCAL_SCOPE_CIDR, NumericIdentity
from meshmodel.labels import Labels
from meshpolicy.active_rules import Templates, activate
from meshpolicy.address_ranges import AddressRanges
from meshpolicy.binding import ActiveRule
from meshpolicy.context import PolicyContext
from meshpolicy.endpoint_policy import EndpointPolicy
from meshpolicy.endpoint_views import PolicyViews
from meshpolicy.node_peer import NodeKeys
from meshpolicy.peer import (
    BoundSelector,
    CidrGroupSelector,
    CidrSelector,
    FqdnSelector,
    IdentitySelector,
    PeerSelector,
    ServicePeers,
    ServiceSelector,
)
from meshpolicy.port import NamedPorts, PortSpec
from meshpolicy.ports_of_pods import PodPorts, PortsOfPods
from meshpolicy.prefix import Cidr
from meshpolicy.reference import PolicyRef
from meshpolicy.reserved_labels import RESERVED_LABELS
from meshpolicy.rule import CidrGroup, Policy, Rule, means_group
from meshpolicy.selection import Selections
from meshpolicy.selector import LabelSelector
from meshpolicy.used_names import UsedNames


class PolicyChange(NamedTuple):
    """What a change did: endpoint identities whose policy must be asked for again, and address ranges to map."""

    revision: int
    affected: frozenset[NumericIdentity] = frozenset()
    prefixes_added: Mapping[str, NumericIdentity] = MappingProxyType({})
    prefixes_removed: tuple[str, ...] = ()


class _Loaded(NamedTuple):
    rules: tuple[ActiveRule, ...]
    prefixes: frozenset[Cidr]


class Engine:
    """The policies of one cluster, as its agents must enforce them.

    Every change returns which tracked endpoint identities (those that `endpoint_policy` was asked for) may have
    another policy now. The result depends on the inputs only, not on their order. Staged policies are as if they were
    not there, unless the context is with them.
    """

    def __init__(self, context: PolicyContext) -> None:
        self.context = context
        self.revision = 0
        self._selections = Selections(dual_stack=context.dual_stack, ipv6=context.ipv6)
        self._policies: dict[PolicyRef, Policy] = {}
        self._loaded: dict[PolicyRef, _Loaded] = {}
        self._groups: dict[str, CidrGroup] = {}
        self._services: dict[tuple[str, str], ServicePeers] = {}
        self._node_keys = NodeKeys()
        self._used_names = UsedNames()
        self._ports = PortsOfPods()
        self._next_rule = 1
        self._templates = Templates(self._ports, context.proxy_ports)
        self._views = PolicyViews(context, self._selections, self._templates, self._ports)
        self._ranges = AddressRanges(self._selections, self._touch_identity, dual_stack=context.dual_stack)
        for number, labels in RESERVED_LABELS.items():
            self._selections.add_identity(int(number), labels)

    # Policies

    def set_policy(self, policy: Policy) -> PolicyChange:
        """This policy is in force, in place of an older one of the same key; a staged one takes that out of force."""
        if policy.is_staged and not self.context.with_staged:
            return self.remove_policy(policy.key)
        old = self._policies.get(policy.key)
        if old == policy:
            return PolicyChange(self.revision)
        self._node_keys.replace(old, policy)
        self._policies[policy.key] = policy
        self._used_names.replace(old, policy)
        return self._replace(policy.key, policy)

    def remove_policy(self, key: PolicyRef) -> PolicyChange:
        """No policy of this key is in force."""
        old = self._policies.pop(key, None)
        if old is None:
            return PolicyChange(self.revision)
        self._node_keys.replace(old, None)
        self._used_names.replace(old, None)
        return self._replace(key, None)

    def set_cidr_group(self, group: CidrGroup) -> PolicyChange:
        """This group is known; policies that name it mean its prefixes."""
        self._groups[group.name] = group
        return self._reload_groups()

    def remove_cidr_group(self, name: str) -> PolicyChange:
        """No group of this name is known; policies that name it select nobody by it."""
        self._groups.pop(name, None)
        return self._reload_groups()

    def set_services(self, services: Iterable[ServicePeers], gone: Iterable[tuple[str, str]] = ()) -> PolicyChange:
        """These Services have exactly these backends, those gone (namespace, name) have none; others stay as they are.

        Policies that name one mean its backends; one that is not known is nobody.
        """
        before = [known for key in gone if (known := self._services.pop(key, None)) is not None]
        after = list(services)
        for service in after:
            key = (service.namespace, service.name)
            before.extend(() if key not in self._services else (self._services[key],))
            self._services[key] = service
        changed = (*before, *after)
        return self._reload(
            policy
            for policy in self._policies.values()
            if any(selector.matches(service) for selector in policy.services for service in changed)
        )

    def services(self) -> Iterable[ServicePeers]:
        """All Services known, sorted by namespace and name."""
        return [self._services[key] for key in sorted(self._services)]

    def uses_services(self) -> bool:
        """Whether a policy in force names a Service as a peer."""
        return any(policy.services for policy in self._policies.values())

    def node_keys(self) -> frozenset[str]:
        """The label keys of nodes that policies in force ask for."""
        return self._node_keys.all()

    def policies(self) -> Iterable[Policy]:
        """All policies in force, sorted by key."""
        return [self._policies[key] for key in sorted(self._policies)]

    def cidr_groups(self) -> Iterable[CidrGroup]:
        """All groups known, sorted by name."""
        return [self._groups[name] for name in sorted(self._groups)]

    def identities(self) -> Mapping[NumericIdentity, Labels]:
        """The identities that `set_identity` or the engine's own start made known, without those of address ranges."""
        known = ((number, self._selections.identity(number)) for number in sorted(self._selections.identities()))
        is_range = range(LOCAL_SCOPE_CIDR, 2 * LOCAL_SCOPE_CIDR).__contains__
        return {NumericIdentity(n): found.labels for n, found in known if found is not None and not is_range(n)}

    def pod_ports(self) -> Mapping[str, PodPorts]:
        """The identity and port names of every pod that defines some."""
        return self._ports.all()

    def tracked(self) -> Iterable[tuple[NumericIdentity, NamedPorts]]:
        """The endpoint identities and port names that `endpoint_policy` was asked for."""
        return [(NumericIdentity(number), ports) for number, ports in self._views.tracked()]

    def rules_of(self, identity: NumericIdentity) -> tuple[Rule, ...]:
        """The rules whose subject is the identity."""
        return tuple(active.rule for rules in self._views.rules_of(int(identity)) for active in rules)

    # Identities

    def set_identity(self, identity: NumericIdentity, labels: Labels) -> PolicyChange:
        """This identity has exactly these labels."""
        number = int(identity)
        known = self._selections.identity(number)
        if known is not None and known.labels == tuple(labels):
            return PolicyChange(self.revision)
        touched = self._touch_identity(number)
        self._selections.remove_identity(number)
        self._selections.add_identity(number, tuple(labels))
        return self._changed(touched | self._touch_identity(number))

    def remove_identity(self, identity: NumericIdentity) -> PolicyChange:
        """This identity is not known any more; no selector selects it. A reserved one has its own labels only."""
        number = int(identity)
        if identity in RESERVED_LABELS:
            return self.set_identity(identity, RESERVED_LABELS[identity])
        if self._selections.identity(number) is None:
            return PolicyChange(self.revision)
        touched = self._touch_identity(number)
        self._selections.remove_identity(number)
        return self._changed(touched)

    def labels_of(self, identity: NumericIdentity) -> Labels | None:
        """The labels of a known identity."""
        known = self._selections.identity(int(identity))
        return None if known is None else known.labels

    def selected_by(self, selector: PeerSelector, *, deny: bool = False) -> frozenset[NumericIdentity]:
        """The identities that a selector selects now, in a rule that denies or in one that allows."""
        return frozenset(
            NumericIdentity(number)
            for part in self._expand((selector,), deny=deny) or ()
            for number in self._peek(part)
        )

    def selectors(self) -> Mapping[str, tuple[NumericIdentity, ...]]:
        """Every selector in use and what it selects, for people to read."""
        return {
            str(selection.selector): tuple(NumericIdentity(number) for number in sorted(selection.identities))
            for selection in sorted(self._selections.all(), key=lambda item: str(item.selector))
        }

    def prefixes(self) -> Mapping[str, NumericIdentity]:
        """The address ranges that policies name, with the identity that the ipcache must give them."""
        return dict(self._ranges.texts)

    def hold_prefixes(self, prefixes: Iterable[Cidr]) -> PolicyChange:
        """Exactly these address ranges have identities whether or not policies name them."""
        added, gone, touched = self._ranges.hold(prefixes)
        return self._changed(touched, added, gone)

    def set_names(self, names: Mapping[Cidr, frozenset[str]]) -> PolicyChange:
        """Each of these addresses has exactly these names (as `FqdnSelector.label_key`), and if any an identity of its own."""
        added, gone, touched = self._ranges.set_names(names)
        return self._changed(touched, added, gone)

    def names(self) -> Mapping[Cidr, frozenset[str]]:
        """The addresses that have names, with these."""
        return self._ranges.names

    def name_selectors(self) -> frozenset[FqdnSelector]:
        """The names and patterns that policies in force have as peers."""
        return self._used_names.all()

    def ranges_of(self, item: Policy | CidrGroup) -> frozenset[Cidr]:
        """The address ranges that this document makes policies name, once it is in force."""
        if isinstance(item, CidrGroup):
            users = [policy for policy in self._policies.values() if policy.uses_groups]
            rules = (rule for policy in users for rule in policy.rules)
            peers = (peer for rule in rules for peer in rule.peers or () if isinstance(peer, CidrGroupSelector))
            found = {hole for peer in peers for hole in peer.excepts}.union(item.prefixes if users else ())
            return frozenset(prefix for prefix in found if prefix.bits)
        if item.is_staged and not self.context.with_staged:
            return frozenset()
        expanded = (self._expand(rule.peers, deny=rule.deny) for rule in item.rules)
        return frozenset(prefix for peers in expanded for prefix in _prefixes_of(peers))

    def known_prefixes(self) -> Set[Cidr]:
        """The address ranges that have an identity, as they are from now on: there may be hundreds of thousands."""
        return self._ranges.numbers.keys()

    def held_prefixes(self) -> frozenset[Cidr]:
        """What `hold_prefixes` was last told."""
        return self._ranges.held

    def is_named(self, prefix: Cidr) -> bool:
        """Whether a policy names this address range."""
        return self._ranges.is_named(prefix)

    # Named ports

    def set_pod_ports(self, pod: str, identity: NumericIdentity, ports: NamedPorts) -> PolicyChange:
        """A pod (by any unique name) of this identity defines exactly these port names.

        An egress rule that names a port means, for each peer, the numbers that pods of the peer's identity define.
        """
        return self._changed(self._views.touch_ports(self._ports.set_pod(pod, int(identity), ports)))

    def resolve_egress_port(self, spec: PortSpec, peer: NumericIdentity) -> tuple[PortSpec, ...]:
        """What a port name means in an egress rule for this peer."""
        return self._ports.resolve(spec, int(peer))

    # Results

    def endpoint_policy(self, identity: NumericIdentity, named_ports: NamedPorts | None = None) -> EndpointPolicy:
        """What endpoints of this identity enforce; the identity is tracked from now on.

        An identity that is not known is treated like a pod without labels: both directions are denied.
        """
        return self._views.policy(int(identity), named_ports or {})

    def track(self, identity: NumericIdentity, named_ports: NamedPorts) -> None:
        """Changes of this identity's policy are announced from now on, as after `endpoint_policy`."""
        self._views.track(int(identity), named_ports)

    def forget_endpoint(self, identity: NumericIdentity) -> None:
        """No endpoint has this identity any more; it is not tracked."""
        self._views.forget(int(identity))

    # Below: how

    def _changed(
        self, affected: Iterable[int], added: Iterable[Cidr] = (), removed: Iterable[str] = ()
    ) -> PolicyChange:
        self.revision += 1
        known = self._ranges.numbers
        return PolicyChange(
            self.revision,
            frozenset(NumericIdentity(number) for number in affected),
            {str(prefix): known[prefix] for prefix in added if prefix in known},
            tuple(removed),
        )

    def _touch_identity(self, number: int) -> set[int]:
        known = self._selections.identity(number)
        return self._views.touch_identity(number, known) if known is not None else self._views.touch_endpoint(number)

    def _replace(self, key: PolicyRef, policy: Policy | None) -> PolicyChange:
        old = self._loaded.pop(key, None)
        touched: set[int] = set()
        added: set[Cidr] = set()
        if policy is not None:
            rules = tuple((rule, self._expand(rule.peers, deny=rule.deny)) for rule in policy.rules)
            prefixes = frozenset(prefix for rule, peers in rules for prefix in _prefixes_of(peers))
            added, touched = self._ranges.use(prefixes)
            active = tuple(self._activate(rule, peers) for rule, peers in rules)
            self._loaded[key] = _Loaded(active, prefixes)
            touched |= self._views.touch_rules(active)
        removed: list[str] = []
        if old is not None:
            touched |= self._views.touch_rules(old.rules)
            self._deactivate(old.rules)
            gone, more = self._ranges.drop(old.prefixes)
            removed, touched = gone, touched | more
        return self._changed(touched, added - {prefix for prefix in added if str(prefix) in removed}, removed)

    def _activate(self, rule: Rule, peers: tuple[BoundSelector, ...] | None) -> ActiveRule:
        active = activate(self._next_rule, rule, peers, self._selections)
        self._next_rule += 1
        return active

    def _deactivate(self, rules: Iterable[ActiveRule]) -> None:
        for active in rules:
            for selection in active.detach():
                self._selections.release(selection)
            self._templates.discard(active.number)

    def _expand(self, peers: tuple[PeerSelector, ...] | None, *, deny: bool) -> tuple[BoundSelector, ...] | None:
        """Peers as the selections know them: groups become their prefixes, services their backends, names labels."""
        if peers is None:
            return None
        expanded: list[BoundSelector] = []
        for peer in peers:
            if isinstance(peer, LabelSelector | CidrSelector | IdentitySelector):
                expanded.append(peer)
            elif isinstance(peer, FqdnSelector):
                expanded.append(peer.by_label)
            elif isinstance(peer, ServiceSelector):
                found = (service for _, service in sorted(self._services.items()) if peer.matches(service))
                expanded.extend(selector for service in found for selector in service.selectors(deny=deny))
            elif isinstance(peer, CidrGroupSelector):
                prefixes = (prefix for group in self._named_groups(peer) for prefix in group.prefixes)
                expanded.extend(CidrSelector(prefix, peer.excepts) for prefix in prefixes)
        return tuple(dict.fromkeys(expanded))

    def _named_groups(self, peer: CidrGroupSelector) -> Iterable[CidrGroup]:
        if peer.labels is None:
            return [self._groups[peer.name]] if peer.name in self._groups else []
        return [group for group in self._groups.values() if means_group(peer, group)]

    def _reload_groups(self) -> PolicyChange:
        return self._reload(policy for policy in self._policies.values() if policy.uses_groups)

    def _reload(self, policies: Iterable[Policy]) -> PolicyChange:
        """These policies, whose peers may expand to something else now, are loaded again."""
        affected: set[NumericIdentity] = set()
        added: dict[str, NumericIdentity] = {}
        removed: set[str] = set()
        for policy in list(policies):
            change = self._replace(policy.key, policy)
            affected |= change.affected
            added |= change.prefixes_added
            removed |= set(change.prefixes_removed)
        known = self.prefixes()
        self.revision += 1
        return PolicyChange(
            self.revision,
            frozenset(affected),
            {prefix: identity for prefix, identity in added.items() if prefix in known},
            tuple(sorted(removed - known.keys())),
        )

    def _peek(self, selector: BoundSelector) -> frozenset[int]:
        selection = self._selections.acquire(selector)
        found = frozenset(selection.identities)
        self._selections.release(selection)
        return found


def _prefixes_of(peers: tuple[BoundSelector, ...] | None) -> Iterable[Cidr]:
    for peer in peers or ():
        if isinstance(peer, CidrSelector):
            yield from (prefix for prefix in (peer.prefix, *peer.excepts) if prefix.bits)
