# SPDX-License-Identifier: Apache-2.0
"""Flows of the kernel's records: who it was about is looked up when a record arrives, the rest when somebody asks. Pure.

Source: fields, verdicts, directions and summaries are those that Hubble derives from the same events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from agent.datapath.flow_layout import (
    DatapathEvent,
    EventType,
    TraceReason,
    VerdictWay,
    event_head,
    event_time_ns,
)
from agent.datapath.layout import Direction
from agent.datapath.reasons import Reason
from agent.observe.sides import Directory, Side, Sides
from agent.observe.translation import SocketPoint, split_translations
from flows.proto import flow_pb2 as pb
from flows.ring import FlowEntry
from flows.summary import flags_summary, icmp_summary, summarise, tcp_flags
from flows.words import TRACE_POINTS
from meshmodel import protocol

_POINTS: Final = {
    number: pb.TraceObservationPoint.Value(name.upper().replace("-", "_")) for number, name in enumerate(TRACE_POINTS)
}

_BEFORE_TRANSLATION: Final = (SocketPoint.BEFORE_FORWARD, SocketPoint.BEFORE_BACK)


class Head:
    """What a record says of itself besides whom it is about and when it was; compared by identity.

    `reason` is the record's, unless there is a better one. `flow` is encoded. `staged`: the encoded `Staged`, if there is one.
    """

    __slots__ = ("flow", "is_denied", "reason")

    def __init__(self, event: DatapathEvent, reason: int, staged: bytes) -> None:
        self.reason = reason
        self.is_denied = _verdict(event) == pb.DROPPED
        flow = _head_fields(event, reason)
        if staged:
            flow.staged.MergeFromString(staged)
        self.flow = flow.SerializeToString()


class FlowMaker:
    """`wall_ns` turns the kernel's clock into the wall's. `uuid` is the beginning of every flow's, 24 characters.

    `staged` says what staged policies would decide about the packet of a verdict, encoded; empty where none is asked.
    """

    def __init__(
        self,
        directory: Directory,
        wall_ns: Callable[[int], int],
        node_name: str,
        uuid: str,
        staged: Callable[[bytes], bytes] = lambda _raw: b"",
    ) -> None:
        self._directory, self._wall_ns, self._node_name, self._uuid = directory, wall_ns, node_name, uuid
        self._heads: dict[tuple[bytes, int, bytes], Head] = {}
        self._staged = staged

    def make(self, records: Iterable[bytes]) -> list[FlowEntry]:
        """One entry for each `struct event`, two for a translation: before it, and after it."""
        self._directory.refresh()
        return [self._entry(raw) for raw in split_translations(records)]

    def _entry(self, raw: bytes) -> FlowEntry:
        sides = self._directory.find(raw)
        return FlowEntry(self._wall_ns(event_time_ns(raw)), sides, self._head(raw, sides), raw)

    def _head(self, raw: bytes, sides: Sides) -> Head:
        key, reason = event_head(raw), 0
        kind, why, direction = key[0], key[1], key[2]
        if kind == EventType.DROP and why == Reason.POLICY_DENIED:
            remote = sides.source if direction == Direction.INGRESS else sides.destination
            # a peer whose labels have not arrived: no rule denied it
            reason = 0 if remote.is_labelled else int(Reason.UNKNOWN_IDENTITY)
        staged = self._staged(raw) if kind == EventType.POLICY_VERDICT else b""
        found = self._heads.get((key, reason, staged))
        if found is None:
            event = DatapathEvent.unpack(raw)
            found = self._heads[key, reason, staged] = Head(event, reason or event.reason, staged)
        return found

    def decode(self, entry: FlowEntry, number: int) -> pb.Flow:
        """The flow of an entry that `make` made, with its number in the ring."""
        event, sides, head = DatapathEvent.unpack(entry.raw), entry.sides, entry.head
        assert isinstance(sides, Sides)
        assert isinstance(head, Head)
        flow = self.finish(pb.Flow.FromString(head.flow), entry, number)
        if event.ifindex:
            flow.interface.index = event.ifindex
        flow.proxy_port = event.proxy_port
        flow.socket_cookie, flow.cgroup_id = event.socket_cookie, event.cgroup_id
        if sides.source_xlated:
            flow.IP.source_xlated = sides.source_xlated
        if sides.source_service:
            flow.source_service.MergeFromString(sides.source_service)
        if sides.destination_service:
            flow.destination_service.MergeFromString(sides.destination_service)
        if sides.policy:
            _add_policy(flow, is_denied=head.is_denied).MergeFromString(sides.policy)
        _add_ports(flow, event)
        return flow

    def finish(self, flow: pb.Flow, entry: FlowEntry, number: int) -> pb.Flow:
        """With its time, its place in the ring, and both ends."""
        sides = entry.sides
        assert isinstance(sides, Sides)
        flow.time.seconds, flow.time.nanos = divmod(entry.time_ns, 1_000_000_000)
        flow.uuid = f"{self._uuid}{number:012x}"
        flow.node_name = self._node_name
        flow.IP.source, flow.IP.destination, flow.IP.ipVersion = sides.source.ip, sides.destination.ip, sides.version
        flow.source.MergeFromString(sides.source.endpoint)
        flow.destination.MergeFromString(sides.destination.endpoint)
        flow.source_names.extend(sides.source_names)
        flow.destination_names.extend(sides.destination_names)
        return flow


def namespaces_of(sides: Sides) -> Iterable[tuple[str, str]]:
    """Cluster and namespace of each end that has one."""
    ends: tuple[Side, Side] = (sides.source, sides.destination)
    return [(end.cluster, end.namespace) for end in ends if end.namespace]


def _verdict(event: DatapathEvent) -> pb.Verdict.ValueType:
    match event.type:
        case EventType.DROP:
            return pb.DROPPED
        case EventType.POLICY_VERDICT if event.reason:
            return pb.DROPPED
        case EventType.POLICY_VERDICT if event.point == VerdictWay.TO_PROXY:
            return pb.REDIRECTED
        case EventType.TRANSLATION:
            return pb.TRACED if event.point in _BEFORE_TRANSLATION else pb.TRANSLATED
    return pb.FORWARDED


def _direction(event: DatapathEvent) -> pb.TrafficDirection.ValueType:
    """Of the connection that the packet is of, as its endpoint sees it; unknown where nobody asked for the connection."""
    match event.type:
        case EventType.TRANSLATION:
            return pb.TRAFFIC_DIRECTION_UNKNOWN
        case EventType.TRACE if event.reason == TraceReason.UNKNOWN:
            return pb.TRAFFIC_DIRECTION_UNKNOWN
    is_reply = event.type == EventType.TRACE and event.reason == TraceReason.REPLY
    return pb.INGRESS if (event.direction == Direction.INGRESS) != is_reply else pb.EGRESS


def _head_fields(event: DatapathEvent, reason: int) -> pb.Flow:
    flow = pb.Flow(verdict=_verdict(event), Type=pb.L3_L4, traffic_direction=_direction(event))
    flow.event_type.type = event.type
    if flow.verdict == pb.DROPPED:
        flow.drop_reason = reason
        flow.drop_reason_desc = pb.DropReason.ValueType(reason)
    match event.type:
        case EventType.TRACE:
            flow.event_type.sub_type = event.point
            flow.trace_observation_point = _POINTS.get(event.point, pb.UNKNOWN_POINT)
            flow.trace_reason = pb.TraceReason.ValueType(event.reason)
            if event.reason != TraceReason.UNKNOWN:
                flow.is_reply.value = event.reason == TraceReason.REPLY
        case EventType.POLICY_VERDICT:
            flow.policy_match_type = event.match
            if flow.verdict != pb.DROPPED:
                flow.is_reply.value = False
        case EventType.TRANSLATION:
            flow.Type = pb.SOCK
            flow.sock_xlate_point = pb.SocketTranslationPoint.ValueType(event.point)
        case _:
            flow.event_type.sub_type = reason
    _add_transport(flow, event)
    if event.type == EventType.TRANSLATION:
        flow.l4.TCP.ClearField("flags")
        flow.Summary = summarise(flow)
    return flow


def _add_policy(flow: pb.Flow, *, is_denied: bool) -> pb.Policy:
    """An empty policy where the one that decided stands."""
    if flow.traffic_direction == pb.INGRESS:
        return flow.ingress_denied_by.add() if is_denied else flow.ingress_allowed_by.add()
    return flow.egress_denied_by.add() if is_denied else flow.egress_allowed_by.add()


def _add_ports(flow: pb.Flow, event: DatapathEvent) -> None:
    """What the header above IP says that no other flow shares. Of ICMP the ports are type and code."""
    source, destination, l4 = event.source_port, event.destination_port, flow.l4
    match event.protocol:
        case protocol.TCP:
            l4.TCP.source_port, l4.TCP.destination_port = source, destination
        case protocol.UDP:
            l4.UDP.source_port, l4.UDP.destination_port = source, destination
        case protocol.SCTP:
            l4.SCTP.source_port, l4.SCTP.destination_port = source, destination
        case protocol.ICMP:
            l4.ICMPv4.type, l4.ICMPv4.code = source, destination
            flow.Summary = icmp_summary(source, destination)
        case protocol.ICMPV6:
            l4.ICMPv6.type, l4.ICMPv6.code = source, destination
            flow.Summary = icmp_summary(source, destination, version=6)


def _add_transport(flow: pb.Flow, event: DatapathEvent) -> None:
    """The protocol above IP, its flags and its words; of one that a flow has no message for its number stands there."""
    match event.protocol:
        case protocol.TCP:
            flow.l4.TCP.flags.CopyFrom(tcp_flags(event.tcp_flags))
            flow.Summary = flags_summary(event.tcp_flags)
        case protocol.UDP:
            flow.l4.UDP.SetInParent()
            flow.Summary = "UDP"
        case protocol.SCTP:
            flow.l4.SCTP.SetInParent()
            flow.Summary = "SCTP"
        case protocol.ICMP:
            flow.l4.ICMPv4.SetInParent()
        case protocol.ICMPV6:
            flow.l4.ICMPv6.SetInParent()
        case number:
            flow.Summary = str(number)
