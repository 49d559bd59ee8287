# SPDX-License-Identifier: Apache-2.0
"""Label selectors: requirements on labels of a source, all of which must hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from meshmodel.labels import (
    CLUSTER_LABEL,
    NAMESPACE_LABEL,
    NAMESPACE_LABELS_PREFIX,
    OF_NODES,
    Label,
)

ANY_SOURCE: Final = "any"
KUBERNETES_SOURCE: Final = "k8s"
RESERVED_SOURCE: Final = "reserved"
NAMESPACE_LABEL_PREFIX: Final = NAMESPACE_LABELS_PREFIX.rstrip(".") + "."
"""What the labels of a pod's namespace begin with."""
CIDR_SOURCE: Final = "cidr"
FQDN_SOURCE: Final = "fqdn"


class Operator(StrEnum):
    """As in Kubernetes; NotIn also holds for a label that is absent."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True, order=True)
class Requirement:
    """One condition. The source "any" accepts the key from every source but those of nodes' labels."""

    source: str
    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def holds(self, labels: Iterable[Label]) -> bool:
        """Whether labels satisfy this condition."""
        found = [label.value for label in labels if label.key == self.key and self.source in sources_of(label)]
        match self.operator:
            case Operator.IN:
                return any(value in self.values for value in found)
            case Operator.NOT_IN:
                return not any(value in self.values for value in found)
            case Operator.EXISTS:
                return bool(found)
            case Operator.DOES_NOT_EXIST:
                return not found

    def __str__(self) -> str:
        key = self.key if self.source == ANY_SOURCE else f"{self.source}:{self.key}"
        match self.operator:
            case Operator.IN if len(self.values) == 1:
                return f"{key}={self.values[0]}" if self.values[0] else key
            case Operator.IN:
                return f"{key} in ({','.join(self.values)})"
            case Operator.NOT_IN:
                return f"{key} not in ({','.join(self.values)})"
            case Operator.EXISTS:
                return f"{key} exists"
            case Operator.DOES_NOT_EXIST:
                return f"{key} absent"


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """A set of requirements in a canonical order; equal selectors compare equal and share a hash."""

    requirements: tuple[Requirement, ...] = ()
    _hash: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "requirements", tuple(sorted(set(self.requirements))))
        object.__setattr__(self, "_hash", hash(self.requirements))

    def __hash__(self) -> int:
        return self._hash

    def matches(self, labels: Iterable[Label]) -> bool:
        """Whether all requirements hold; an empty selector selects everything."""
        return all(requirement.holds(labels) for requirement in self.requirements)

    def with_requirement(self, requirement: Requirement) -> LabelSelector:
        """This selector and one more condition."""
        return LabelSelector((*self.requirements, requirement))

    def mentions(self, key: str) -> bool:
        """Whether a requirement names the key with source k8s or any."""
        return any(
            requirement.key == key and requirement.source in (ANY_SOURCE, KUBERNETES_SOURCE)
            for requirement in self.requirements
        )

    def mentions_prefix(self, prefix: str) -> bool:
        """Whether a requirement names a key of source k8s or any that begins with the prefix."""
        return any(
            requirement.key.startswith(prefix) and requirement.source in (ANY_SOURCE, KUBERNETES_SOURCE)
            for requirement in self.requirements
        )

    @property
    def is_reserved(self) -> bool:
        """Whether a requirement names a reserved: key; such a selector is never scoped."""
        return any(requirement.source == RESERVED_SOURCE for requirement in self.requirements)

    def __str__(self) -> str:
        return "{" + ", ".join(str(requirement) for requirement in self.requirements) + "}"


def sources_of(label: Label) -> tuple[str, ...]:
    """The sources under which a label is found."""
    return (label.source,) if label.source in OF_NODES else (label.source, ANY_SOURCE)


def parse_key(text: str, default_source: str = ANY_SOURCE) -> tuple[str, str]:
    """Split "source:key"; a key without a source gets the default, "$name" is a reserved label."""
    if text.startswith("$"):
        return RESERVED_SOURCE, text[1:]
    source, colon, key = text.partition(":")
    return (source or default_source, key) if colon else (default_source, text)


def equals(source: str, key: str, value: str) -> Requirement:
    """The condition key = value."""
    return Requirement(source, key, Operator.IN, (value,))


def scope_peer(selector: LabelSelector, *, namespace: str, scope: str, subject_is_init: bool) -> LabelSelector:
    """Add what a peer selector of a Cilium policy means without saying it: its namespace and its cluster.

    An empty namespace is a clusterwide policy, whose unscoped peers must have some namespace (unless the subject
    is a pod that has no labels yet). An empty scope is any cluster.
    """
    if selector.is_reserved:
        return selector
    if not selector.mentions(NAMESPACE_LABEL):
        if not namespace:
            if not subject_is_init:
                exists = Requirement(KUBERNETES_SOURCE, NAMESPACE_LABEL, Operator.EXISTS)
                selector = selector.with_requirement(exists)
        elif not selector.mentions_prefix(NAMESPACE_LABEL_PREFIX):
            selector = selector.with_requirement(equals(KUBERNETES_SOURCE, NAMESPACE_LABEL, namespace))
    return scope_cluster(selector, scope)


def scope_cluster(selector: LabelSelector, scope: str) -> LabelSelector:
    """Restrict to the scope's cluster unless the selector mentions a cluster itself."""
    if not scope or selector.mentions(CLUSTER_LABEL):
        return selector
    return selector.with_requirement(equals(KUBERNETES_SOURCE, CLUSTER_LABEL, scope))


def reserved(name: str) -> LabelSelector:
    """The selector of one reserved label."""
    return LabelSelector((equals(RESERVED_SOURCE, name, ""),))
