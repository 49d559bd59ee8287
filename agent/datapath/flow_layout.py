# SPDX-License-Identifier: Apache-2.0
"""Records the kernel writes: connection tracking, metrics and ring-buffer events. Same rules as `layout`."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple, Self

from agent.datapath.address import ANY_ADDRESS, family_of, pack4, pack16, unpack4, unpack16

EVENT_VERSION: Final = 1


class ConntrackKind(IntEnum):
    """Which side of a flow an entry describes; SERVICE keys carry the frontend as destination."""

    EGRESS = 0
    INGRESS = 1
    SERVICE = 2


class EventType(IntEnum):
    """Hubble's numbers."""

    DROP = 1
    TRACE = 4
    POLICY_VERDICT = 5


class TracePoint(IntEnum):
    """Where a traced packet went, Hubble's sub types."""

    TO_ENDPOINT = 0
    TO_STACK = 3
    TO_OVERLAY = 4


class TraceReason(IntEnum):
    """Only the first packet and the first reply of a connection are traced."""

    NEW = 1
    ESTABLISHED = 2
    REPLY = 3
    RELATED = 4


class PolicyMatch(IntEnum):
    """How specific the deciding policy entry was, Hubble's numbers."""

    NONE = 0
    L3_ONLY = 1
    L3_L4 = 2
    L4_ONLY = 3
    ALL = 4
    L3_PROTOCOL = 5
    PROTOCOL_ONLY = 6


_CONNTRACK_KEY = struct.Struct("<4s4s2s2sBBH")
_CONNTRACK_VALUE = struct.Struct("<QQIIII16s2sHBB2s")
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_METRIC_VALUE = struct.Struct("<QQ")
_PROBE_KEY: Final = struct.Struct("<4sI")
_PROBE_VALUE: Final = struct.Struct("<QQII")
_EVENT = struct.Struct("<QBBBBBBHIIIIII2s2s2sBB16s16s16s")


class ConntrackKey(NamedTuple):
    """`struct conntrack_key`: addresses and ports of the forward direction; ICMP echo has its id as both ports."""

    source: str
    destination: str
    source_port: int
    destination_port: int
    protocol: int
    kind: int

    def pack(self) -> bytes:
        """16 bytes."""
        ports = (self.source_port.to_bytes(2, "big"), self.destination_port.to_bytes(2, "big"))
        return _CONNTRACK_KEY.pack(pack4(self.source), pack4(self.destination), *ports, self.protocol, self.kind, 0)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        source, destination, sport, dport, protocol, kind, _ = _CONNTRACK_KEY.unpack(raw)
        ports = (int.from_bytes(sport, "big"), int.from_bytes(dport, "big"))
        return cls(unpack4(source), unpack4(destination), *ports, protocol, kind)


class ConntrackValue(NamedTuple):
    """`struct conntrack_value`.

    lifetime: the tick (2^30 ns of CLOCK_MONOTONIC) after which the entry counts as absent.
    peer_identity: identity of the remote side when the flow was last judged.
    nat_address, nat_port: EGRESS: the frontend replies must come from; SERVICE: the chosen backend; else none.
    """

    packets: int
    size_bytes: int
    lifetime: int
    peer_identity: int
    backend_id: int = 0
    policy_revision: int = 0
    nat_address: str = ANY_ADDRESS
    nat_port: int = 0
    flags: int = 0
    tcp_forward: int = 0
    tcp_reply: int = 0
    proxy_port: int = 0

    def pack(self) -> bytes:
        """56 bytes."""
        head = (self.packets, self.size_bytes, self.lifetime, self.peer_identity, self.backend_id, self.policy_revision)
        nat = (pack16(self.nat_address), self.nat_port.to_bytes(2, "big"))
        tail = (self.flags, self.tcp_forward, self.tcp_reply, self.proxy_port.to_bytes(2, "big"))
        return _CONNTRACK_VALUE.pack(*head, *nat, *tail)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        fields = list(_CONNTRACK_VALUE.unpack(raw))
        fields[6:8] = [unpack16(fields[6]), int.from_bytes(fields[7], "big")]
        fields[11] = int.from_bytes(fields[11], "big")
        return cls._make(fields)


class MetricKey(NamedTuple):
    """Index of one counter: reason (see reasons.Reason) and direction."""

    reason: int
    direction: int

    def pack(self) -> bytes:
        """4 bytes."""
        return _U32.pack(self.direction << 8 | self.reason)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        (index,) = _U32.unpack(raw)
        return cls(index & 0xFF, index >> 8)


class MetricValue(NamedTuple):
    """One counter, summed over all CPUs."""

    packets: int
    size_bytes: int

    def pack(self) -> bytes:
        """16 bytes: the share of one CPU."""
        return _METRIC_VALUE.pack(*self)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        return cls(*_METRIC_VALUE.unpack(raw))


class ProbeSize(IntEnum):
    """SMALL fits every path; FULL is as long as the overlay device's MTU allows."""

    SMALL = 0
    FULL = 1


class ProbeKey(NamedTuple):
    """`struct probe_key`: the node that answered, by its underlay address."""

    node: str
    size: ProbeSize

    def pack(self) -> bytes:
        """8 bytes."""
        return _PROBE_KEY.pack(pack4(self.node), self.size)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        node, size = _PROBE_KEY.unpack(raw)
        return cls(unpack4(node), ProbeSize(size))


class ProbeValue(NamedTuple):
    """`struct probe_value`: the newest answer. answered_ns: CLOCK_MONOTONIC. nonce: the question's."""

    answered_ns: int
    nonce: int
    length: int

    def pack(self) -> bytes:
        """24 bytes."""
        return _PROBE_VALUE.pack(*self, 0)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        return cls(*_PROBE_VALUE.unpack(raw)[:3])


class HeartbeatKey(NamedTuple):
    """The only key of the heartbeat map."""

    index: int = 0  # type: ignore[assignment]  # the kernel's word; tuple.index is not used on records

    def pack(self) -> bytes:
        """4 bytes."""
        return _U32.pack(self.index)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        return cls(*_U32.unpack(raw))


class HeartbeatValue(NamedTuple):
    """When the agent last said that it keeps the maps up to date: nanoseconds of CLOCK_MONOTONIC."""

    beaten_ns: int

    def pack(self) -> bytes:
        """8 bytes."""
        return _U64.pack(self.beaten_ns)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        return cls(*_U64.unpack(raw))


class DatapathEvent(NamedTuple):
    """`struct event`: one ring-buffer record.

    reason: a Reason for drops and verdicts (0 = allowed), a TraceReason for traces. point: TracePoint, traces only.
    For ICMP the ports are the ICMP type and code. frontend: the service address the pod used, or 0.0.0.0.
    """

    timestamp_ns: int
    type: int
    reason: int
    direction: int
    protocol: int
    tcp_flags: int
    endpoint_id: int
    length: int
    source_identity: int
    destination_identity: int
    rule_id: int
    ifindex: int
    source: str
    destination: str
    source_port: int
    destination_port: int
    frontend: str = ANY_ADDRESS
    frontend_port: int = 0
    match: int = PolicyMatch.NONE
    point: int = TracePoint.TO_ENDPOINT

    def pack(self) -> bytes:
        """96 bytes."""
        small = (self.type, self.reason, self.direction, self.protocol, self.tcp_flags, self.endpoint_id)
        numbers = (self.length, self.source_identity, self.destination_identity, self.rule_id, self.ifindex)
        ports = tuple(p.to_bytes(2, "big") for p in (self.source_port, self.destination_port, self.frontend_port))
        addresses = (pack16(self.source), pack16(self.destination), pack16(self.frontend))
        extra = (self.match | self.point << 4, family_of(self.source))
        return _EVENT.pack(self.timestamp_ns, EVENT_VERSION, *small, *numbers, 0, *ports, *extra, *addresses)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack. Raises: ValueError for another version of the record."""
        timestamp_ns, version, *rest = _EVENT.unpack(raw)
        if version != EVENT_VERSION:
            raise ValueError(f"event version {version}, expected {EVENT_VERSION}")
        *numbers, _, sport, dport, fport, extra, family, source, destination, frontend = rest
        ends = [unpack16(source, family), unpack16(destination, family)]
        ports = [int.from_bytes(sport, "big"), int.from_bytes(dport, "big")]
        front = [unpack16(frontend, family), int.from_bytes(fport, "big")]
        return cls._make([timestamp_ns, *numbers, *ends, *ports, *front, extra & 0xF, extra >> 4])


# What is read of a `struct event` before anybody asks for the rest of it.


def is_event(raw: bytes) -> bool:
    """It is a record of this version."""
    return len(raw) == _EVENT.size and raw[8] == EVENT_VERSION


def event_time_ns(raw: bytes) -> int:
    """Nanoseconds of CLOCK_MONOTONIC."""
    return int.from_bytes(raw[:8], "little")


def event_sides(raw: bytes) -> bytes:
    """Equal for records with equal addresses, identities, frontend, protocol and rule."""
    return raw[20:32] + raw[44:46] + raw[47:96] + raw[12:13]


def event_head(raw: bytes) -> bytes:
    """Equal for records with equal type, reason, direction, protocol, TCP flags, policy match and trace point."""
    return raw[9:14] + raw[46:47]
