# SPDX-License-Identifier: Apache-2.0
"""The new connections among some flows, as each of this node's pods had them. Pure.

A connection between two pods of this node is one of each. What a packet that is repeated, and the traces and verdicts of one
connection, have in common are its addresses and ports; they count once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from agent.datapath.reasons import Reason
from flows.proto import flow_pb2 as pb
from flows.words import POLICY_VERDICT, TRACE
from meshapi.connection import ConnectionEnd, ConnectionRow
from meshmodel import protocol

_JUDGED: Final = frozenset(
    {Reason.POLICY_DENIED, Reason.POLICY_DENY_RULE, Reason.UNKNOWN_IDENTITY, Reason.PROXY_UNSUPPORTED}
)
"""Why a packet is dropped that policy was asked about."""
_NUMBERS: Final = {
    "TCP": protocol.TCP, "UDP": protocol.UDP, "SCTP": protocol.SCTP, "ICMPv4": protocol.ICMP, "ICMPv6": protocol.ICMPV6,
}  # fmt: skip


class _Key(NamedTuple):
    direction: str
    source: str
    destination: str
    protocol: int
    port: int


@dataclass
class _Seen:
    """By source port: whether the connection was cut."""

    last: pb.Flow
    ports: dict[int, bool] = field(default_factory=dict)


def new_connections(flows: Iterable[pb.Flow], is_here: Callable[[str], bool]) -> list[ConnectionRow]:
    """One row for each direction, pair of addresses, protocol and port, in that order. `is_here`: a pod of this node has it.

    Flows come oldest first.
    """
    seen: dict[_Key, _Seen] = {}
    for flow in flows:
        if not _opens(flow):
            continue
        number, source_port, port = _transport(flow)
        for direction in _sides(flow, is_here):
            key = _Key(direction, flow.IP.source, flow.IP.destination, number, port)
            found = seen.setdefault(key, _Seen(flow))
            found.last = flow
            is_cut = flow.verdict == pb.DROPPED and _word(flow) == direction
            found.ports[source_port] = is_cut or found.ports.get(source_port, False)
    return [_row(key, seen[key]) for key in sorted(seen)]


def keep_most(rows: list[ConnectionRow], most: int) -> tuple[list[ConnectionRow], int]:
    """So many rows, those of most connections, in the order they came; and how many connections the others have."""
    ranked = sorted(range(len(rows)), key=lambda place: (-rows[place].connections, -rows[place].last))
    kept, others = sorted(ranked[:most]), ranked[most:]
    return [rows[place] for place in kept], sum(rows[place].connections for place in others)


def _opens(flow: pb.Flow) -> bool:
    """A packet of a connection that began before anybody looked says nothing of who opened it, nor does a reset.

    A verdict on a connection that is known is of whoever opened it, also where it is a later packet that was judged.
    """
    kind, flags = flow.event_type.type, flow.l4.TCP.flags
    if flags.RST or (flags.ACK and flags.SYN):
        return False
    if kind == TRACE:
        return flow.trace_reason == pb.NEW and not flags.ACK
    return kind == POLICY_VERDICT or flow.drop_reason in _JUDGED


def _transport(flow: pb.Flow) -> tuple[int, int, int]:
    """The IP protocol, the source port, and the destination port or the type of an ICMP message."""
    match flow.l4.WhichOneof("protocol"):
        case "TCP" | "UDP" | "SCTP" as name:
            header = getattr(flow.l4, name)
            return _NUMBERS[name], header.source_port, header.destination_port
        case "ICMPv4" | "ICMPv6" as name:
            return _NUMBERS[name], 0, getattr(flow.l4, name).type
    return (int(flow.Summary) if flow.Summary.isdigit() else 0), 0, 0


def _word(flow: pb.Flow) -> str:
    return "ingress" if flow.traffic_direction == pb.INGRESS else "egress"


def _sides(flow: pb.Flow, is_here: Callable[[str], bool]) -> Iterator[str]:
    """The directions in which a pod of this node has the connection.

    What is cut on its way out never comes in, so the other side was not asked.
    """
    if is_here(flow.IP.source):
        yield "egress"
    if is_here(flow.IP.destination) and not (flow.verdict == pb.DROPPED and _word(flow) == "egress"):
        yield "ingress"


def _row(key: _Key, seen: _Seen) -> ConnectionRow:
    last = seen.last
    return ConnectionRow(
        direction=key.direction,
        source=_end(last.IP.source, last.source),
        destination=_end(last.IP.destination, last.destination),
        protocol=key.protocol,
        port=key.port,
        connections=len(seen.ports),
        dropped=sum(seen.ports.values()),
        last=last.time.ToNanoseconds() / 1e9,
    )


def _end(ip: str, end: pb.Endpoint) -> ConnectionEnd:
    return ConnectionEnd(
        ip=ip, identity=end.identity, namespace=end.namespace, pod=end.pod_name, cluster=end.cluster_name
    )
