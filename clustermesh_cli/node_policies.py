# SPDX-License-Identifier: Apache-2.0
"""What host policies mean for each node of a cluster, before a change and after it. Pure.

Nodes with the same labels, as far as policies ask for them, are judged alike. Each has the guard, with its defaults.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from meshmodel.identity import NumericIdentity, Reserved
from meshmodel.labels import CLUSTER_LABEL, Labels
from meshpolicy import EndpointPolicy, Engine
from meshpolicy.host_guard import GuardFacts, guard_policy
from meshpolicy.node_peer import node_labels
from meshpolicy.verdict_changes import VerdictChange, host_changes

_HOST: Final = NumericIdentity(Reserved.HOST)
_CONTROL_PLANE: Final = "node-role.kubernetes.io/control-plane"


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A node as its cluster's Kubernetes describes it."""

    name: str
    addresses: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


class NodeGroup(NamedTuple):
    """Nodes that are judged alike, what they enforce before and after, and what that changes."""

    names: tuple[str, ...]
    before: EndpointPolicy
    after: EndpointPolicy
    changes: tuple[VerdictChange, ...]


def compare_nodes(
    before: Engine, after: Engine, nodes: Iterable[NodeFacts], cluster: str, namespace: str
) -> tuple[NodeGroup, ...]:
    """Every group of nodes, by name; none while neither engine has a host policy. `namespace` is that of our programs.

    The engines are as before afterwards, but for the guard.
    """
    engines = (before, after)
    if not any(policy.is_host for engine in engines for policy in engine.policies()):
        return ()
    keys = {CLUSTER_LABEL, *before.node_keys(), *after.node_keys()}
    known = [engine.labels_of(_HOST) for engine in engines]
    found = tuple(
        _compare(engines, labels, tuple(names), GuardFacts(cluster=cluster, namespace=namespace, is_api_server=has_api))
        for (labels, has_api), names in sorted(_groups(nodes, cluster, keys).items(), key=lambda item: item[1])
    )
    for engine, labels in zip(engines, known, strict=True):
        engine.forget_endpoint(_HOST)
        if labels is None:
            engine.remove_identity(_HOST)
        else:
            engine.set_identity(_HOST, labels)
    return found


def _groups(nodes: Iterable[NodeFacts], cluster: str, keys: Iterable[str]) -> Mapping[tuple[Labels, bool], list[str]]:
    groups: dict[tuple[Labels, bool], list[str]] = {}
    for node in sorted(nodes, key=lambda node: node.name):
        labels = node_labels(node.labels, cluster, keys, is_own=True)
        groups.setdefault((labels, _CONTROL_PLANE in node.labels), []).append(node.name)
    return groups


def _compare(engines: tuple[Engine, Engine], labels: Labels, names: tuple[str, ...], facts: GuardFacts) -> NodeGroup:
    for engine in engines:
        engine.set_identity(_HOST, labels)
        engine.remove_policy(guard_policy(facts).key)
        if any(policy.is_host for policy in engine.policies()):
            engine.set_policy(guard_policy(facts))
    old, new = (engine.endpoint_policy(_HOST) for engine in engines)
    return NodeGroup(names, old, new, host_changes(*engines))


def by_address(groups: Iterable[NodeGroup], nodes: Iterable[NodeFacts]) -> Mapping[str, tuple[str, NodeGroup]]:
    """The name and the group of the node that has an address."""
    own = {name: group for group in groups for name in group.names}
    return dict(_addresses(own, nodes))


def _addresses(own: Mapping[str, NodeGroup], nodes: Iterable[NodeFacts]) -> Iterator[tuple[str, tuple[str, NodeGroup]]]:
    for node in nodes:
        if node.name in own:
            for address in node.addresses:
                yield address, (node.name, own[node.name])
