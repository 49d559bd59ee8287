# SPDX-License-Identifier: Apache-2.0
"""The new connections among some flows, as each of this node's pods had them. Pure.

A connection between two pods of this node is one of each. What a packet that is repeated, and the traces and verdicts of one
connection, have in common are its addresses and ports; they count once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from agent.datapath.flow_layout import TraceReason
from agent.datapath.reasons import Reason
from agent.observe.flow import Flow, FlowEnd, FlowType, FlowVerdict, protocol_number
from meshapi.connection import ConnectionEnd, ConnectionRow
from meshmodel import protocol

_JUDGED: Final = frozenset(
    {Reason.POLICY_DENIED, Reason.POLICY_DENY_RULE, Reason.UNKNOWN_IDENTITY, Reason.PROXY_UNSUPPORTED}
)
"""Why a packet is dropped that policy was asked about."""


class _Key(NamedTuple):
    direction: str
    source: str
    destination: str
    protocol: int
    port: int


@dataclass
class _Seen:
    """By source port: whether the connection was cut."""

    last: Flow
    ports: dict[int, bool] = field(default_factory=dict)


def new_connections(flows: Iterable[Flow], is_here: Callable[[str], bool]) -> list[ConnectionRow]:
    """One row for each direction, pair of addresses, protocol and port, in that order. `is_here`: a pod of this node has it.

    Flows come oldest first.
    """
    seen: dict[_Key, _Seen] = {}
    for flow in flows:
        if not _opens(flow):
            continue
        number = protocol_number(flow.protocol)
        port = flow.icmp_type if number == protocol.ICMP else flow.destination.port
        for direction in _sides(flow, is_here):
            key = _Key(direction, flow.source.ip, flow.destination.ip, number, port)
            found = seen.setdefault(key, _Seen(flow))
            found.last = flow
            is_cut = flow.verdict is FlowVerdict.DROPPED and flow.direction == direction
            found.ports[flow.source.port] = is_cut or found.ports.get(flow.source.port, False)
    return [_row(key, seen[key]) for key in sorted(seen)]


def keep_most(rows: list[ConnectionRow], most: int) -> tuple[list[ConnectionRow], int]:
    """So many rows, those of most connections, in the order they came; and how many connections the others have."""
    ranked = sorted(range(len(rows)), key=lambda place: (-rows[place].connections, -rows[place].last))
    kept, others = sorted(ranked[:most]), ranked[most:]
    return [rows[place] for place in kept], sum(rows[place].connections for place in others)


def _opens(flow: Flow) -> bool:
    if flow.type is FlowType.TRACE:
        return flow.reason == TraceReason.NEW
    return flow.type is FlowType.POLICY_VERDICT or flow.reason in _JUDGED


def _sides(flow: Flow, is_here: Callable[[str], bool]) -> Iterator[str]:
    """The directions in which a pod of this node has the connection.

    What is cut on its way out never comes in, so the other side was not asked.
    """
    if is_here(flow.source.ip):
        yield "egress"
    if is_here(flow.destination.ip) and not (flow.verdict is FlowVerdict.DROPPED and flow.direction == "egress"):
        yield "ingress"


def _row(key: _Key, seen: _Seen) -> ConnectionRow:
    return ConnectionRow(
        direction=key.direction,
        source=_end(seen.last.source),
        destination=_end(seen.last.destination),
        protocol=key.protocol,
        port=key.port,
        connections=len(seen.ports),
        dropped=sum(seen.ports.values()),
        last=seen.last.time_s,
    )


def _end(end: FlowEnd) -> ConnectionEnd:
    return ConnectionEnd(ip=end.ip, identity=end.identity, namespace=end.namespace, pod=end.pod, cluster=end.cluster)
