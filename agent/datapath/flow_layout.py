# SPDX-License-Identifier: Apache-2.0
"""Records the kernel writes: connection tracking, metrics and ring-buffer events. Same rules as `layout`."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple, Self

from agent.datapath.address import ANY_ADDRESS, family_of, pack4, pack16, unpack4, unpack16

EVENT_VERSION: Final = 2


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
    TRANSLATION = 7


class TracePoint(IntEnum):
    """Where a traced packet went or came in, Hubble's sub types."""

    TO_ENDPOINT = 0
    TO_PROXY = 1
    TO_HOST = 2
    TO_STACK = 3
    TO_OVERLAY = 4
    FROM_ENDPOINT = 5
    FROM_PROXY = 6
    FROM_HOST = 7
    FROM_STACK = 8
    FROM_OVERLAY = 9
    FROM_NETWORK = 10
    TO_NETWORK = 11


class VerdictWay(IntEnum):
    """What a verdict that lets a packet on did with it."""

    ON = 0
    TO_PROXY = 1


class Translation(IntEnum):
    """FORWARD: a frontend became one of its backends; BACK: a backend became the frontend again."""

    FORWARD = 1
    BACK = 3


class TraceReason(IntEnum):
    """What connection tracking said of a traced packet; UNKNOWN where it came in."""

    UNKNOWN = 0
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
_CONNTRACK_VALUE = struct.Struct("<QQIIII4sIII2sHBB2s")
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_METRIC_VALUE = struct.Struct("<QQ")
_PROBE_KEY: Final = struct.Struct("<4sI")
_PROBE_VALUE: Final = struct.Struct("<QQII")
_EVENT = struct.Struct("<QBBBBBBHIIIII2sH2s2s2sBB16s16s16sQQ")


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
    reported_forward, reported_reply: the tick of the last packet of that direction that was traced.
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
    reported_forward: int = 0
    reported_reply: int = 0

    def pack(self) -> bytes:
        """56 bytes."""
        head = (self.packets, self.size_bytes, self.lifetime, self.peer_identity, self.backend_id, self.policy_revision)
        reported = (self.reported_forward, self.reported_reply, 0)
        nat = (pack4(self.nat_address), *reported, self.nat_port.to_bytes(2, "big"))
        tail = (self.flags, self.tcp_forward, self.tcp_reply, self.proxy_port.to_bytes(2, "big"))
        return _CONNTRACK_VALUE.pack(*head, *nat, *tail)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        *head, address, forward, reply, _, port, flags, tcp_forward, tcp_reply, proxy = _CONNTRACK_VALUE.unpack(raw)
        tail = (flags, tcp_forward, tcp_reply, int.from_bytes(proxy, "big"), forward, reply)
        return cls._make([*head, unpack4(address), int.from_bytes(port, "big"), *tail])


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

    reason: a Reason for drops and verdicts (0 = allowed), a TraceReason for traces.
    point: the TracePoint, VerdictWay or Translation, as the type has it.
    For ICMP the ports are the ICMP type and code. frontend: the service address the pod used, or 0.0.0.0; of a
    translation one end is the backend, and the frontend is what the client takes it for.
    socket_cookie, cgroup_id: of a translation for a socket of the node, else 0.
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
    proxy_port: int = 0
    socket_cookie: int = 0
    cgroup_id: int = 0

    def pack(self) -> bytes:
        """112 bytes."""
        small = (self.type, self.reason, self.direction, self.protocol, self.tcp_flags, self.endpoint_id)
        numbers = (self.length, self.source_identity, self.destination_identity, self.rule_id, self.ifindex)
        ports = tuple(p.to_bytes(2, "big") for p in (self.source_port, self.destination_port, self.frontend_port))
        addresses = (pack16(self.source), pack16(self.destination), pack16(self.frontend))
        extra = (self.match | self.point << 4, family_of(self.source))
        proxy = (self.proxy_port.to_bytes(2, "big"), 0)
        socket = (self.socket_cookie, self.cgroup_id)
        return _EVENT.pack(
            self.timestamp_ns, EVENT_VERSION, *small, *numbers, *proxy, *ports, *extra, *addresses, *socket
        )

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack. Raises: ValueError for another version of the record."""
        if len(raw) != _EVENT.size or raw[8] != EVENT_VERSION:
            raise ValueError(f"event version {raw[8]} of {len(raw)} bytes, expected {EVENT_VERSION}")
        timestamp_ns, _, *rest = _EVENT.unpack(raw)
        *numbers, proxy, _, sport, dport, fport, extra, family, source, destination, frontend, cookie, cgroup = rest
        ends = [unpack16(source, family), unpack16(destination, family)]
        ports = [int.from_bytes(sport, "big"), int.from_bytes(dport, "big")]
        front = [unpack16(frontend, family), int.from_bytes(fport, "big")]
        last = [extra & 0xF, extra >> 4, int.from_bytes(proxy, "big"), cookie, cgroup]
        return cls._make([timestamp_ns, *numbers, *ends, *ports, *front, *last])


# What is read of a `struct event` before anybody asks for the rest of it.


_TYPE: Final = 9
_NO_PORT: Final = bytes(2)


def is_event(raw: bytes) -> bool:
    """It is a record of this version."""
    return len(raw) == _EVENT.size and raw[8] == EVENT_VERSION


def event_time_ns(raw: bytes) -> int:
    """Nanoseconds of CLOCK_MONOTONIC."""
    return int.from_bytes(raw[:8], "little")


def event_sides(raw: bytes) -> bytes:
    """Equal for records with equal addresses, identities, protocol, rule, and frontend if there is any.

    Ports of both ends count where they may be those of a service: in a translation.
    """
    if raw[_TYPE] == EventType.TRANSLATION:
        return raw[20:32] + raw[40:44] + raw[47:80] + raw[9:13]
    if raw[44:46] == _NO_PORT:
        return raw[20:32] + raw[47:80] + raw[12:13]
    return raw[20:32] + raw[44:46] + raw[47:96] + raw[9:13]


def event_head(raw: bytes) -> bytes:
    """Equal for records with equal type, reason, direction, protocol, TCP flags, policy match and trace point."""
    return raw[9:14] + raw[46:47]


def event_type(raw: bytes) -> int:
    """EventType."""
    return raw[_TYPE]


def event_point(raw: bytes) -> int:
    """TracePoint, VerdictWay or Translation."""
    return raw[46] >> 4


def with_ends(raw: bytes, point: int, *, is_frontend: bool, is_source: bool) -> bytes:
    """The same translation with this point; the backend, which is its source or its destination, may be the frontend.

    The other end loses its port. Who a frontend is, no record says: its identity is 0.
    """
    new = bytearray(raw)
    new[46] = raw[46] & 0xF | point << 4
    port, address, identity = (40, 48, 20) if is_source else (42, 64, 24)
    other = 42 if is_source else 40
    new[other : other + 2] = _NO_PORT
    if is_frontend:
        new[port : port + 2] = raw[44:46]
        new[address : address + 16] = raw[80:96]
        new[identity : identity + 4] = bytes(4)
    return bytes(new)
