# SPDX-License-Identifier: Apache-2.0
"""Which recent connections two policy sets judge differently. Pure.

Each node's agent tells the new connections that its pods had; the identities are those of that moment. Addresses outside of the
mesh, and nodes, have the identity that the one agent which was asked for them gives them now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final, NamedTuple

from clustermesh_cli.connection_decision import believe
from clustermesh_cli.live_policy import AgentView
from clustermesh_cli.node_policies import NodeGroup
from meshapi.connection import ConnectionEnd, ConnectionRow, RecentConnections
from meshmodel.identity import LOCAL_SCOPE_CIDR, UNKNOWN, NumericIdentity, Reserved, is_of_nodes, is_reserved
from meshpolicy import Engine
from meshpolicy.mapstate import Verdict
from meshpolicy.port import NamedPorts
from meshpolicy.reference import Direction

_OUTSIDE: Final[frozenset[int]] = frozenset({Reserved.WORLD, Reserved.WORLD_IPV4, Reserved.WORLD_IPV6})
_NODES: Final[frozenset[int]] = frozenset({Reserved.REMOTE_NODE, Reserved.KUBE_APISERVER})
DIRECTIONS: Final = {direction.word: direction for direction in Direction}


class FlowChange(NamedTuple):
    """Connections of one pair and port that would end otherwise: how many, how many were cut, and the last of them.

    `peer` is the number that the new policy set has for the other end. `judged_node` is the node that is judged; empty: a pod.
    """

    direction: Direction
    subject: NumericIdentity
    peer: NumericIdentity
    connections: int
    dropped: int
    last: ConnectionRow
    node: str
    before: Verdict
    after: Verdict
    judged_node: str = ""


class FlowChanges(NamedTuple):
    """What differs, the most connections first; and how many were judged, and could not be: an end is not known any more."""

    changes: tuple[FlowChange, ...]
    judged: int
    unknown: int


class PolicySets(NamedTuple):
    """The engines before and after, the agent whose beliefs both have, and the port names of pods by address.

    `nodes` are the names of the cluster's nodes by address, and what their group of nodes enforces, where host policies do.
    """

    before: Engine
    after: Engine
    view: AgentView
    named_ports: Mapping[str, NamedPorts]
    nodes: Mapping[str, tuple[str, NodeGroup]] = MappingProxyType({})


class FlowJudge:
    """One policy set. Who a peer is, is found once for each address."""

    def __init__(self, engine: Engine, view: AgentView, named_ports: Mapping[str, NamedPorts]) -> None:
        self._engine, self._view, self._named_ports = engine, view, named_ports
        self._peers: dict[tuple[int, str], NumericIdentity | None] = {}

    def verdict(self, direction: Direction, row: ConnectionRow) -> Verdict | None:
        """None: an end has no identity that is known now."""
        own, other = ends(direction, row)
        peer = self.peer(other)
        if peer is None or self._engine.labels_of(NumericIdentity(own.identity)) is None:
            return None
        policy = self._engine.endpoint_policy(NumericIdentity(own.identity), self._named_ports.get(own.ip, {}))
        return policy.verdict(direction, peer, row.protocol, row.port)

    def peer(self, end: ConnectionEnd) -> NumericIdentity | None:
        """The number that this policy set has for the other end; None if it is not known."""
        key = end.identity, end.ip
        if key not in self._peers:
            self._peers[key] = _find_peer(self._engine, self._view, NumericIdentity(end.identity), end.ip)
        return self._peers[key]


def flow_changes(sets: PolicySets, answers: Iterable[RecentConnections]) -> FlowChanges:
    """All recent connections, judged by both policy sets."""
    found: dict[tuple[object, ...], FlowChange] = {}
    judges = [FlowJudge(engine, sets.view, sets.named_ports) for engine in (sets.before, sets.after)]
    judged = unknown = 0
    for node, row in rows_of(answers):
        direction = DIRECTIONS[row.direction]
        before, after = (judge.verdict(direction, row) for judge in judges)
        if before is None or after is None:
            unknown += row.connections
            continue
        judged += row.connections
        own, other = ends(direction, row)
        subject, peer = NumericIdentity(own.identity), judges[1].peer(other) or UNKNOWN
        changes = [FlowChange(direction, subject, peer, row.connections, row.dropped, row, node, before, after)]
        changes += _of_nodes(sets.nodes, node, direction, row)
        for change in changes:
            if change.before.allowed != change.after.allowed:
                rules = (None if v.entry is None else v.entry.rule for v in (change.before, change.after))
                whose = (change.direction, change.subject, change.judged_node, change.peer)
                key = (*whose, row.protocol, row.port, *rules)
                found[key] = change if key not in found else _together(found[key], change)
    ordered = sorted(found.values(), key=lambda c: (-c.connections, c.direction, c.subject, c.peer, c.last.port))
    return FlowChanges(tuple(ordered), judged, unknown)


def _of_nodes(
    nodes: Mapping[str, tuple[str, NodeGroup]], seen_on: str, direction: Direction, row: ConnectionRow
) -> Iterator[FlowChange]:
    """The same connection as the node judges it that is the pod's peer. What a node sends to its own pods it does not judge."""
    pod, other = ends(direction, row)
    name, group = nodes.get(other.ip, ("", None))
    if group is None or (direction is Direction.INGRESS and name == seen_on):
        return
    opposite, peer = Direction(1 - direction), NumericIdentity(pod.identity)
    before, after = (side.verdict(opposite, peer, row.protocol, row.port) for side in (group.before, group.after))
    host = NumericIdentity(Reserved.HOST)
    yield FlowChange(opposite, host, peer, row.connections, row.dropped, row, seen_on, before, after, name)


def rows_of(answers: Iterable[RecentConnections]) -> Iterator[tuple[str, ConnectionRow]]:
    """Every connection with the node that saw it."""
    for answer in answers:
        for row in answer.connections:
            yield answer.node, row


def ends(direction: Direction, row: ConnectionRow) -> tuple[ConnectionEnd, ConnectionEnd]:
    """The pod that is judged, and its peer."""
    return (row.destination, row.source) if direction is Direction.INGRESS else (row.source, row.destination)


def _find_peer(engine: Engine, view: AgentView, number: NumericIdentity, address: str) -> NumericIdentity | None:
    if number in _OUTSIDE or number & ~0xFFFFFF == LOCAL_SCOPE_CIDR:
        return believe(replace(view, addresses={}), address, engine.prefixes()).number
    if number == UNKNOWN or number in _NODES or is_of_nodes(number):
        found = believe(view, address, engine.prefixes()).number
        return None if found == UNKNOWN else found
    return number if is_reserved(number) or engine.labels_of(number) is not None else None


def _together(one: FlowChange, other: FlowChange) -> FlowChange:
    newest = max(one, other, key=lambda change: change.last.last)
    return newest._replace(connections=one.connections + other.connections, dropped=one.dropped + other.dropped)
