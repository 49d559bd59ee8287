# SPDX-License-Identifier: Apache-2.0
"""Nodes as peers by their labels: what a node's identity is labelled with, and what a node selector of a rule means.

An identity of nodes has the labels that rules ask for and no others, so that there are few of them. For each key that was
looked up it also has a mark: without the mark it is not known whether the nodes have the label. What is not known is
nobody in an allow rule and every node in a deny rule, also while nodes get another identity.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from meshmodel.labels import CLUSTER_LABEL, NODE, NODE_KEY, OF_NODES, RESERVED, Label, Labels, sort_labels
from meshpolicy.decode import DocumentNode
from meshpolicy.parse_selector import parse_selector
from meshpolicy.peer import PeerSelector
from meshpolicy.reference import Direction
from meshpolicy.rule import Policy
from meshpolicy.selector import ANY_SOURCE, KUBERNETES_SOURCE, LabelSelector, Operator, Requirement, equals

_HOST: Final = "host"
_REMOTE: Final = "remote-node"
_SOURCES_OF_SUBJECTS: Final = (NODE, ANY_SOURCE, KUBERNETES_SOURCE)


def node_labels(labels: Mapping[str, str], cluster: str, keys: Iterable[str], *, is_own: bool) -> Labels:
    """What the identity of a node is labelled with while rules ask for these keys. `is_own`: the agent's own node."""
    kind = Label(RESERVED, _HOST if is_own else _REMOTE, "")
    return sort_labels((kind, *_looked_up({**labels, CLUSTER_LABEL: cluster}, keys)))


def completed_labels(labels: Labels, cluster: str, keys: Iterable[str]) -> Labels:
    """An identity written down with labels of a node has no others of the keys; its cluster is this one by default."""
    found = {label.key: label.value for label in labels if label.source == NODE}
    if not found:
        return labels
    owner = next((label.value for label in labels if label.key == CLUSTER_LABEL), cluster)
    others = tuple(label for label in labels if label.source not in OF_NODES)
    return sort_labels((*others, *_looked_up({**found, CLUSTER_LABEL: owner}, keys)))


def _looked_up(known: Mapping[str, str], keys: Iterable[str]) -> Iterator[Label]:
    for key in keys:
        yield Label(NODE_KEY, key, "")
        if key in known:
            yield Label(NODE, key, known[key])


def parse_node_selector(node: DocumentNode) -> LabelSelector:
    """Read a selector of nodes; its keys are those of Node objects, and the cluster's name. Raises PolicyError."""
    requirements = []
    for part in parse_selector(node, NODE).requirements:
        is_cluster = part.key == CLUSTER_LABEL and part.source in (ANY_SOURCE, KUBERNETES_SOURCE)
        if part.source != NODE and not is_cluster:
            node.fail(
                f"{part.source}:{part.key} is not a label of nodes",
                "write the key as the Node has it, without a source",
            )
        requirements.append(Requirement(NODE, part.key, part.operator, part.values))
    return LabelSelector(tuple(requirements))


def parse_host_subject(node: DocumentNode) -> LabelSelector:
    """Read the subject of a host policy: the agent's own node, if it is known to have these labels. Raises PolicyError."""
    wanted = tuple(
        Requirement(NODE, part.key, part.operator, part.values) if part.source in _SOURCES_OF_SUBJECTS else part
        for part in parse_selector(node, NODE).requirements
    )
    for part in wanted:
        if part.source != NODE:
            node.fail(f"{part} is not a label of nodes", "write the key as the Node has it, without a source")
    marks = (Requirement(NODE_KEY, part.key, Operator.EXISTS) for part in wanted)
    return LabelSelector((*wanted, *marks, Requirement(RESERVED, _HOST, Operator.EXISTS)))


class NodePeers(NamedTuple):
    """The identities that a selector of nodes means, and those that it may mean: a label that it asks for is not known."""

    selectors: tuple[LabelSelector, ...]
    unknown: tuple[LabelSelector, ...]


def node_peers(selector: LabelSelector, direction: Direction, scope: str) -> NodePeers:
    """Whom a selector of nodes means. An empty scope is any cluster.

    On egress the pod's own node is one of the nodes. On ingress it is not: a node always reaches its own pods.
    """
    if scope and CLUSTER_LABEL not in _keys(selector):
        selector = selector.with_requirement(equals(NODE, CLUSTER_LABEL, scope))
    keys = sorted(set(_keys(selector)))
    marks = tuple(Requirement(NODE_KEY, key, Operator.EXISTS) for key in keys)
    kinds = (_REMOTE,) if direction is Direction.INGRESS else (_REMOTE, _HOST)
    nodes = tuple(Requirement(RESERVED, kind, Operator.EXISTS) for kind in kinds)
    return NodePeers(
        tuple(LabelSelector((*selector.requirements, *marks, kind)) for kind in nodes),
        tuple(
            LabelSelector((kind, Requirement(NODE_KEY, key, Operator.DOES_NOT_EXIST))) for kind in nodes for key in keys
        ),
    )


def selects_nodes(selector: object) -> bool:
    """Whether a peer of a rule asks for labels of nodes."""
    return isinstance(selector, LabelSelector) and any(part.source == NODE_KEY for part in selector.requirements)


def peer_text(peer: PeerSelector) -> str:
    """A peer of a rule as its author knows it: a selector of nodes has marks and kinds that nobody wrote."""
    return _node_text(peer) if isinstance(peer, LabelSelector) and selects_nodes(peer) else str(peer)


def _node_text(selector: LabelSelector) -> str:
    unknown = [p.key for p in selector.requirements if p.source == NODE_KEY and p.operator is Operator.DOES_NOT_EXIST]
    if unknown:
        return f"nodes of which {unknown[0]} is not known"
    asked = (replace(part, source=ANY_SOURCE) for part in selector.requirements if part.source == NODE)
    return f"nodes {LabelSelector(tuple(asked))}"


def is_unlabelled_node(labels: Iterable[Label]) -> bool:
    """Whether this is an identity of nodes none of whose labels were looked up."""
    known = tuple(labels)
    is_node = any(label.source == RESERVED and label.key in (_HOST, _REMOTE) for label in known)
    return is_node and not any(label.source == NODE_KEY for label in known)


class NodeKeys:
    """The label keys of nodes that policies in force ask for."""

    def __init__(self) -> None:
        self._uses: Counter[str] = Counter()

    def replace(self, old: Policy | None, new: Policy | None) -> None:
        """The new policy is in force in place of the old one."""
        gone = Counter() if old is None else Counter(_keys_of(old))
        self._uses = self._uses + Counter(() if new is None else _keys_of(new)) - gone

    def all(self) -> frozenset[str]:
        """Every key that a rule asks for."""
        return frozenset(self._uses)


def _keys_of(policy: Policy) -> Iterator[str]:
    for rule in policy.rules:
        for peer in (rule.subject, *(rule.peers or ())):
            if isinstance(peer, LabelSelector):
                yield from (part.key for part in peer.requirements if part.source == NODE_KEY)


def _keys(selector: LabelSelector) -> Iterator[str]:
    return (part.key for part in selector.requirements)
