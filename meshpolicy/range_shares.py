# SPDX-License-Identifier: Apache-2.0
"""How many address ranges policies may name: each is an entry of every node's address map, as each pod is. Pure.

Whoever writes policies could fill the map of every node otherwise, and with it the ranges within which other namespaces'
rules have an entry for each. Each namespace has a share, all namespaces have one, and clusterwide policies with the groups
have one. What these leave of the map is for pods and nodes, whatever policies say. Of one share the smallest documents
have their ranges first; those that do not fit are kept closed. Which these are depends on what the documents say, not on
when they came.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from meshpolicy.peer import CidrGroupSelector, CidrSelector, ServicePeers, ServiceSelector
from meshpolicy.prefix import Cidr
from meshpolicy.range_share import RangeClaim, RangeShare
from meshpolicy.reference import PolicyKind, PolicyRef
from meshpolicy.rule import CidrGroup, Policy, means_group

KEPT_CLOSED: Final = "kept closed: "
_CLUSTER: Final = ""
_NOBODY: Final[frozenset[PolicyRef]] = frozenset()


class ShareLimits(NamedTuple):
    """Ranges of each namespace, of all namespaces together, of clusterwide policies and groups together; some on their way.

    The address map has 1,048,576 entries. Addresses of DNS names take 200,000 of them at most.
    """

    of_namespace: int = 32_768
    of_namespaces: int = 262_144
    of_cluster: int = 131_072
    spare: int = 65_536

    @property
    def on_their_way(self) -> int:
        """With so many ranges known, documents that wait for theirs are told one by one."""
        return self.of_namespaces + self.of_cluster + self.spare


LIMITS: Final = ShareLimits()


class RangeShares:
    """Told every policy and group, says which are kept closed. A group takes room while a policy names it.

    A policy that names a group without room is kept closed. Backends of Services outside the mesh count.
    """

    def __init__(self, limits: ShareLimits = LIMITS) -> None:
        self._limits = limits
        self._shares: dict[str, RangeShare] = {}
        self._room = limits.of_namespace
        self._wanted = 0  # by all namespaces, of each no more than it may have
        self._with_services: dict[PolicyRef, Policy] = {}
        self._groups: dict[str, CidrGroup] = {}
        self._users: dict[PolicyRef, Policy] = {}
        self._named: dict[PolicyRef, frozenset[str]] = {}  # the groups that each of these means
        self._uses: Counter[tuple[str, bool]] = Counter()  # of each group, by policies in force and by staged ones

    def set_policy(self, policy: Policy, services: Iterable[ServicePeers] = ()) -> frozenset[PolicyRef]:
        """The policy says this; returns what is kept closed now and was not, or the other way, and who may be for it."""
        ranges = _ranges_of(policy, services)
        touched = self._replace_user(policy.key, policy if policy.uses_groups else None)
        if ranges or policy.services:
            touched |= self._claim(policy.key, self._made(policy, ranges, is_staged=policy.is_staged))
        else:
            touched |= self._claim(policy.key, None)
        return self._settle(touched)

    def set_group(self, group: CidrGroup) -> frozenset[PolicyRef]:
        """The group has these prefixes and labels; answers as `set_policy` does."""
        self._groups[group.name] = group
        meant = self._name_again(group.name)
        return meant | self._settle(self._claim_group(group.name))

    def remove(self, key: PolicyRef) -> frozenset[PolicyRef]:
        """There is no such policy or group; returns those that this concerns, as `set_policy` does."""
        if key.kind == PolicyKind.CIDR_GROUP:
            if self._groups.pop(key.name, None) is None:
                return _NOBODY
            return (self._name_again(key.name) | self._settle(self._claim(key, None))) - {key}
        touched = self._replace_user(key, None) | self._claim(key, None)
        return self._settle(touched) - {key}

    def item(self, key: PolicyRef) -> Policy | CidrGroup | None:
        """The document as it is written, where it may be in force some time."""
        if key.kind == PolicyKind.CIDR_GROUP:
            return self._groups.get(key.name)
        claim = self._claim_of(key)
        return self._users.get(key) if claim is None or claim.item is None else claim.item

    def with_services(self) -> list[Policy]:
        """The policies that mean whoever is behind Services, kept closed or not, sorted by key."""
        return [self._with_services[key] for key in sorted(self._with_services)]

    @property
    def uses_services(self) -> bool:
        """There are such policies."""
        return bool(self._with_services)

    def excess(self, key: PolicyRef) -> str:
        """Why the policy, or what names the group, is kept closed; empty if it is not."""
        share, claim = self._shares.get(key.namespace), self._claim_of(key)
        if share is not None and claim is not None and key in share.closed:
            return f"{KEPT_CLOSED}it names {claim.size} address ranges, and {self._limit(key.namespace)}; name fewer"
        full = self._full_groups()
        name = min((name for name in self._named.get(key, ()) if _group_key(name) in full), default="")
        if not name:
            return ""
        return f"{KEPT_CLOSED}it names CiliumCIDRGroup {name}, for which there is no room: {self._limit(_CLUSTER)}"

    def closing_first(self, keys: Iterable[PolicyRef]) -> list[PolicyRef]:
        """In an order in which no policy ever means a group that is kept closed: who closes, then groups, then who names them."""

        def place(key: PolicyRef) -> tuple[bool, bool, PolicyRef]:
            is_open, is_group = not self.excess(key), key.kind == PolicyKind.CIDR_GROUP
            return is_open, is_group != is_open, key

        return sorted(keys, key=place)

    def _limit(self, namespace: str) -> str:
        limits = self._limits
        if namespace == _CLUSTER:
            return (
                f"clusterwide policies and the CiliumCIDRGroups that policies name may have {limits.of_cluster} together, "
                "the smallest first"
            )
        if self._room < limits.of_namespace:
            return (
                f"of the {limits.of_namespaces} of all namespaces this one has {self._room}, since others name as many, "
                "the smallest first"
            )
        return (
            f"the policies of a namespace may name {limits.of_namespace} together, the smallest first "
            "(policy-ranges-per-namespace)"
        )

    def _made(self, item: Policy | CidrGroup, ranges: frozenset[Cidr], *, is_staged: bool) -> RangeClaim:
        is_cluster = isinstance(item, CidrGroup) or not item.key.namespace
        most = self._limits.of_cluster if is_cluster else self._limits.of_namespace
        if len(ranges) <= most:
            return RangeClaim(item, ranges, len(ranges), is_staged)
        has_services = isinstance(item, Policy) and item.services
        return RangeClaim(item if has_services else None, frozenset(), len(ranges), is_staged)

    def _claim_of(self, key: PolicyRef) -> RangeClaim | None:
        share = self._shares.get(key.namespace)
        return None if share is None else share.claims.get(key)

    def _claim(self, key: PolicyRef, claim: RangeClaim | None) -> set[str]:
        """The document claims this; returns whose shares are to be settled."""
        share = self._shares.get(key.namespace)
        if share is None:
            if claim is None:
                return set()
            share = self._shares[key.namespace] = RangeShare()
        wanted = self._wanted_by(share)
        before = share.replace(key, claim)
        if key.namespace != _CLUSTER:
            self._wanted += self._wanted_by(share) - wanted
        self._with_services.pop(key, None)
        if claim is not None and isinstance(claim.item, Policy) and claim.item.services:
            self._with_services[key] = claim.item
        return set() if before is None and claim is None else {key.namespace}

    def _wanted_by(self, share: RangeShare) -> int:
        return min(len(share.uses), self._limits.of_namespace)

    # ---- groups

    def _replace_user(self, key: PolicyRef, policy: Policy | None) -> set[str]:
        """The policy names groups as it says, or none."""
        before = self._users.pop(key, None)
        touched = self._named.pop(key, frozenset())
        if before is not None:
            for name in touched:
                self._count(name, -1, is_staged=before.is_staged)
        if policy is not None:
            self._users[key] = policy
            self._named[key] = frozenset(group.name for group in self._groups.values() if _means(policy, group))
            for name in self._named[key]:
                self._count(name, 1, is_staged=policy.is_staged)
        touched |= self._named.get(key, frozenset())
        return set[str]().union(*(self._claim_group(name) for name in touched))

    def _name_again(self, name: str) -> frozenset[PolicyRef]:
        """The group is another one, or is not there any more; returns the policies that mean it now and did not, or did."""
        group, found = self._groups.get(name), set[PolicyRef]()
        for key, policy in self._users.items():
            is_named = group is not None and _means(policy, group)
            if is_named != (name in self._named[key]):
                self._named[key] ^= {name}
                self._count(name, 1 if is_named else -1, is_staged=policy.is_staged)
                found.add(key)
        return frozenset(found)

    def _count(self, name: str, by: int, *, is_staged: bool) -> None:
        self._uses[name, is_staged] += by
        if not self._uses[name, is_staged]:
            del self._uses[name, is_staged]

    def _claim_group(self, name: str) -> set[str]:
        group = self._groups.get(name)
        is_used, is_staged = (self._uses[name, staged] > 0 for staged in (False, True))
        if group is None or not (is_used or is_staged):
            return self._claim(_group_key(name), None)
        ranges = frozenset(prefix for prefix in group.prefixes if prefix.bits)
        return self._claim(_group_key(name), self._made(group, ranges, is_staged=not is_used))

    def _full_groups(self) -> frozenset[PolicyRef]:
        share = self._shares.get(_CLUSTER)
        return _NOBODY if share is None else share.closed

    # ---- who has room

    def _settle(self, touched: Iterable[str]) -> frozenset[PolicyRef]:
        before, self._room = self._room, self._room_of_each()
        names = set(touched)
        if self._room != before:
            least = min(self._room, before)
            names.update(
                name
                for name, share in self._shares.items()
                if name and (share.staged or self._wanted_by(share) > least)
            )
        changed: set[PolicyRef] = set()
        for name in names:
            share = self._shares[name]
            changed |= share.settle(self._limits.of_cluster if name == _CLUSTER else self._room)
            if not share.claims:
                del self._shares[name]
        groups = {key.name for key in changed if key.kind == PolicyKind.CIDR_GROUP}
        if groups:
            changed.update(key for key, named in self._named.items() if not groups.isdisjoint(named))
        return frozenset(changed)

    def _room_of_each(self) -> int:
        """How many ranges a namespace may have. While all want too many, those that want least have all they want."""
        if self._wanted <= self._limits.of_namespaces:
            return self._limits.of_namespace
        wanted = sorted(self._wanted_by(share) for name, share in self._shares.items() if name != _CLUSTER)
        left = self._limits.of_namespaces
        for place, size in enumerate(wanted):
            fair = left // (len(wanted) - place)
            if size > fair:
                return fair
            left -= size
        return self._limits.of_namespace


def without_room(
    items: Iterable[Policy | CidrGroup], limits: ShareLimits = LIMITS, services: Iterable[ServicePeers] = ()
) -> Mapping[PolicyRef, str]:
    """Which of these documents, if they are all there is, are kept closed, and why."""
    shares, known, policies = RangeShares(limits), tuple(services), dict[PolicyRef, None]()
    for item in items:
        if isinstance(item, Policy):
            policies[item.key] = None
            shares.set_policy(item, known)
        else:
            shares.set_group(item)
    return {key: why for key in policies if (why := shares.excess(key))}


def _means(policy: Policy, group: CidrGroup) -> bool:
    peers = (peer for rule in policy.rules for peer in rule.peers or ())
    return any(isinstance(peer, CidrGroupSelector) and means_group(peer, group) for peer in peers)


def _group_key(name: str) -> PolicyRef:
    return PolicyRef(PolicyKind.CIDR_GROUP, _CLUSTER, name)


def _ranges_of(policy: Policy, services: Iterable[ServicePeers]) -> frozenset[Cidr]:
    """The ranges that a policy makes have identities, without those of groups."""
    found: set[Cidr] = set()
    for rule in policy.rules:
        for peer in rule.peers or ():
            if isinstance(peer, CidrSelector):
                found.update((peer.prefix, *peer.excepts))
            elif isinstance(peer, CidrGroupSelector):
                found.update(peer.excepts)
            elif isinstance(peer, ServiceSelector):
                found.update(prefix for service in services if peer.matches(service) for prefix in service.addresses)
    return frozenset(prefix for prefix in found if prefix.bits)
