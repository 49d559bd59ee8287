# SPDX-License-Identifier: Apache-2.0
"""How many address ranges the policies of one namespace may name: each is an entry of every node's address map. Pure.

Whoever may write policies of a namespace could fill the map of every node otherwise, and with it the ranges within which
other namespaces' rules have an entry for each. The smallest policies have their ranges first; those that do not fit are kept
closed. Which these are depends on what the policies say, not on when they came.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final, NamedTuple

from meshpolicy import Policy, PolicyRef, ServicePeers
from meshpolicy.peer import CidrGroupSelector, CidrSelector, ServiceSelector
from meshpolicy.prefix import Cidr

RANGES_OF_NAMESPACE: Final = 32_768
"""A thirty-second part of the address map, and twice what one pod's policy may hold by default."""
KEPT_CLOSED: Final = "kept closed: "
_NOBODY: Final[frozenset[PolicyRef]] = frozenset()


class _Claim(NamedTuple):
    """A policy as it is written and the ranges that it names, of which there are `size`.

    Of one that alone names more than it may, they are not kept, nor is the policy but where it means Services.
    """

    policy: Policy | None
    ranges: frozenset[Cidr]
    size: int


class _Namespace:
    """The policies of one namespace that name ranges, and those of them that are kept closed."""

    __slots__ = ("claims", "closed", "uses")

    def __init__(self) -> None:
        self.claims: dict[PolicyRef, _Claim] = {}
        self.uses: Counter[Cidr] = Counter()
        self.closed: frozenset[PolicyRef] = _NOBODY


class RangeShares:
    """Told every policy, says which are kept closed. What has no namespace is the cluster's own and counts nowhere.

    Ranges of groups count nowhere either: groups are the cluster's. Backends of Services outside the mesh count.
    """

    def __init__(self, most: int = RANGES_OF_NAMESPACE) -> None:
        self._most = most
        self._namespaces: dict[str, _Namespace] = {}
        self._with_services: dict[PolicyRef, Policy] = {}

    def set(self, policy: Policy, services: Iterable[ServicePeers]) -> frozenset[PolicyRef]:
        """The policy says this; returns those of its namespace that are kept closed now and were not, or the other way."""
        if not policy.key.namespace:
            return _NOBODY
        ranges = _ranges_of(policy, services)
        if policy.is_staged or not (ranges or policy.services):
            return self.remove(policy.key)
        claim = _Claim(policy, ranges, len(ranges))
        if claim.size > self._most:
            claim = _Claim(policy if policy.services else None, frozenset(), claim.size)
        namespace = self._namespaces.setdefault(policy.key.namespace, _Namespace())
        self._replace(namespace, policy.key, claim)
        return self._settle(namespace)

    def remove(self, key: PolicyRef) -> frozenset[PolicyRef]:
        """There is no such policy; returns those that this concerns, as `set` does."""
        namespace = self._namespaces.get(key.namespace)
        if namespace is None or key not in namespace.claims:
            return _NOBODY
        self._replace(namespace, key, None)
        if not namespace.claims:
            del self._namespaces[key.namespace]
        return self._settle(namespace) - {key}

    def policy(self, key: PolicyRef) -> Policy | None:
        """The policy as it is written, where it may be in force some time."""
        claim = self._claim(key)
        return None if claim is None else claim.policy

    def with_services(self) -> list[Policy]:
        """The policies that mean whoever is behind Services, kept closed or not, sorted by key."""
        return [self._with_services[key] for key in sorted(self._with_services)]

    @property
    def uses_services(self) -> bool:
        """There are such policies."""
        return bool(self._with_services)

    def excess(self, key: PolicyRef) -> str:
        """Why the policy is kept closed; empty if it is not."""
        claim = self._claim(key)
        if claim is None or key not in self._namespaces[key.namespace].closed:
            return ""
        return (
            f"{KEPT_CLOSED}it names {claim.size} address ranges, and the policies of a namespace may name {self._most} "
            "together, the smallest first (policy-ranges-per-namespace); name fewer"
        )

    def _claim(self, key: PolicyRef) -> _Claim | None:
        namespace = self._namespaces.get(key.namespace)
        return None if namespace is None else namespace.claims.get(key)

    def _replace(self, namespace: _Namespace, key: PolicyRef, claim: _Claim | None) -> None:
        before = namespace.claims.pop(key, None)
        self._with_services.pop(key, None)
        if claim is not None:
            namespace.claims[key] = claim
            if claim.policy is not None and claim.policy.services:
                self._with_services[key] = claim.policy
            namespace.uses.update(claim.ranges)
        if before is not None:
            namespace.uses.subtract(before.ranges)
            for prefix in before.ranges:
                if not namespace.uses[prefix]:
                    del namespace.uses[prefix]

    def _settle(self, namespace: _Namespace) -> frozenset[PolicyRef]:
        before, namespace.closed = namespace.closed, frozenset(self._too_many(namespace))
        return before ^ namespace.closed

    def _too_many(self, namespace: _Namespace) -> Iterable[PolicyRef]:
        """The largest policies, from the first one that has no room beside the smaller ones."""
        claims = namespace.claims
        if len(namespace.uses) <= self._most:
            return [key for key, claim in claims.items() if claim.size > self._most]
        ordered = sorted(claims, key=lambda key: (claims[key].size, key))
        named = set[Cidr]()
        for place, key in enumerate(ordered):
            named |= claims[key].ranges
            if max(len(named), claims[key].size) > self._most:
                return ordered[place:]
        return ()


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
