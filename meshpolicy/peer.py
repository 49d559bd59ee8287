# SPDX-License-Identifier: Apache-2.0
"""The kinds of peers besides pods by label: address ranges, named groups of them, services, and DNS names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from meshmodel.labels import Label
from meshpolicy.dns_name import DnsRule, dns_rule
from meshpolicy.prefix import Cidr, parse_label_key
from meshpolicy.selector import (
    CIDR_SOURCE,
    FQDN_SOURCE,
    KUBERNETES_SOURCE,
    RESERVED_SOURCE,
    LabelSelector,
    Operator,
    Requirement,
)


@dataclass(frozen=True, slots=True)
class CidrSelector:
    """Everything outside the mesh inside `prefix`, except what lies inside one of `excepts`."""

    prefix: Cidr
    excepts: tuple[Cidr, ...] = ()

    def covers(self, prefix: Cidr) -> bool:
        """Whether an address range of its own (an identity labelled with it) is selected."""
        return self.prefix.covers(prefix) and not any(hole.covers(prefix) for hole in self.excepts)

    def selects_world(self, labels: Iterable[Label], *, dual_stack: bool) -> bool:
        """Whether an address that no policy names is selected: only by the whole prefix of its family.

        Without `dual_stack` the identity "world" stands for IPv4 addresses, so that only 0.0.0.0/0 selects it.
        """
        if self.prefix.bits or any(hole.covers(self.prefix) for hole in self.excepts):
            return False
        names = {label.key for label in labels if label.source == RESERVED_SOURCE}
        is_single_stack_world = "world" in names and not dual_stack and self.prefix.version == 4
        return f"world-ipv{self.prefix.version}" in names or is_single_stack_world

    def matches(self, labels: Iterable[Label], *, dual_stack: bool) -> bool:
        """Whether an identity with these labels is selected."""
        known = tuple(labels)
        prefixes = cidr_prefixes(known)
        if prefixes:
            return any(self.prefix.covers(prefix) for prefix in prefixes) and not any(
                hole.covers(prefix) for hole in self.excepts for prefix in prefixes
            )
        return self.selects_world(known, dual_stack=dual_stack)

    def __str__(self) -> str:
        holes = f" except {', '.join(str(hole) for hole in self.excepts)}" if self.excepts else ""
        return f"{self.prefix}{holes}"


@dataclass(frozen=True, slots=True)
class CidrGroupSelector:
    """The prefixes of a CiliumCIDRGroup by name, or of all groups whose labels match."""

    name: str
    labels: tuple[Requirement, ...] | None
    excepts: tuple[Cidr, ...] = ()

    def __str__(self) -> str:
        return f"cidrGroup {self.name}" if self.labels is None else f"cidrGroups {LabelSelector(self.labels)}"


@dataclass(frozen=True, slots=True)
class FqdnSelector:
    """A DNS name or pattern: the addresses that `Engine.set_names` says have such a name."""

    match_name: str
    match_pattern: str

    @property
    def rule(self) -> DnsRule:
        """Which names are meant."""
        return dns_rule(self.match_name, self.match_pattern)

    @property
    def label_key(self) -> str:
        """The key of the fqdn: label of addresses with such a name; equal for entries that mean the same names."""
        name, pattern = self.rule
        return (name or pattern).rstrip(".")

    @property
    def by_label(self) -> LabelSelector:
        """What selects the identities of these addresses."""
        return LabelSelector((Requirement(FQDN_SOURCE, self.label_key, Operator.EXISTS),))

    def __str__(self) -> str:
        return self.match_name or self.match_pattern


@dataclass(frozen=True, slots=True)
class IdentitySelector:
    """One identity by its number: what a backend of a service is."""

    number: int

    def __str__(self) -> str:
        return f"identity {self.number}"


@dataclass(frozen=True, slots=True)
class ServiceSelector:
    """The backends of a Service by name, or of all Services whose labels match. An empty namespace means every one."""

    name: str
    namespace: str
    labels: tuple[Requirement, ...] | None = None

    def matches(self, service: ServicePeers) -> bool:
        """Whether the service is meant."""
        if self.namespace not in ("", service.namespace):
            return False
        if self.labels is None:
            return self.name == service.name
        known = tuple(Label(KUBERNETES_SOURCE, key, value) for key, value in service.labels)
        return LabelSelector(self.labels).matches(known)

    def __str__(self) -> str:
        what = self.name if self.labels is None else str(LabelSelector(self.labels))
        return f"service {self.namespace or '*'}/{what}"


class ServicePeers(NamedTuple):
    """A Service and who its backends are: identities where the mesh knows one, else addresses as host prefixes.

    `reserved` are backends that run in the network of a node: their identity stands for every node.
    """

    namespace: str
    name: str
    labels: tuple[tuple[str, str], ...] = ()
    identities: frozenset[int] = frozenset()
    addresses: frozenset[Cidr] = frozenset()
    reserved: frozenset[int] = frozenset()

    def selectors(self, *, deny: bool) -> tuple[BoundSelector, ...]:
        """The backends as peers, in a stable order. What would mean every node is left to deny rules."""
        numbers = sorted(self.identities | self.reserved if deny else self.identities)
        return (*map(IdentitySelector, numbers), *map(CidrSelector, sorted(self.addresses)))


BoundSelector = LabelSelector | CidrSelector | IdentitySelector
"""What selects identities by itself."""

PeerSelector = BoundSelector | CidrGroupSelector | FqdnSelector | ServiceSelector


def cidr_prefixes(labels: Iterable[Label]) -> tuple[Cidr, ...]:
    """The prefixes that an identity's cidr: labels name."""
    parsed = (parse_label_key(label.key) for label in labels if label.source == CIDR_SOURCE)
    return tuple(prefix for prefix in parsed if prefix is not None)
