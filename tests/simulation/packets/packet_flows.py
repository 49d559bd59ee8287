# SPDX-License-Identifier: Apache-2.0
"""A packet and what becomes of it, and the conntrack entries over a node's maps: where a flow lies, how long it lives, when it is
established. Twin of bpf/ct.h.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from agent.datapath.flow_layout import ConntrackKey, ConntrackKind, ConntrackValue
from agent.datapath.maps import Maps
from agent.datapath.reasons import Reason

TCP: Final = 6
FIN, SYN, RST, ACK = 1, 2, 4, 16
LOOPBACK, CLOSING_FORWARD, CLOSING_REPLY, SEEN_REPLY, VIA_STACK, OPENING, BY_TUNNEL = 1, 2, 4, 8, 16, 32, 128
WAY = VIA_STACK | BY_TUNNEL
BOTH_CLOSING: Final = CLOSING_FORWARD | CLOSING_REPLY


class Segment(NamedTuple):
    """One packet; `flags` are TCP's."""

    source: str
    destination: str
    protocol: int
    source_port: int
    destination_port: int
    flags: int = 0

    @property
    def opens(self) -> bool:
        return self.protocol == TCP and self.flags & (SYN | ACK) == SYN


class Lot(NamedTuple):
    """What became of a packet: `where` is endpoint, overlay, stack, refused or dropped; it is translated by then."""

    where: str
    packet: Segment
    reason: Reason | None = None
    to: str = ""
    """The endpoint's address, or the node's."""


@dataclass(frozen=True)
class NodeFacts:
    """Constants of the programs on one node. Lifetimes in ticks; `tick` and `now_ns` tell the time."""

    cluster_id: int
    now_ns: Callable[[], int]
    tick: Callable[[], int]
    choose: Callable[[int], int]
    """A number below the one given: which slot of so many."""
    address: str = ""
    vxlan_port: int = 8472
    cluster_shift: int = 16
    established: int = 0
    opening: int = 0
    closing: int = 0
    other: int = 0


class Flow:
    """One conntrack entry where it lies."""

    def __init__(self, where: Any, key: ConntrackKey, value: ConntrackValue) -> None:
        self._where, self.key, self.value = where, key, value

    def set(self, **fields: Any) -> None:
        self.value = self.value._replace(**fields)
        self._where.update([(self.key, self.value)])

    @property
    def is_over(self) -> bool:
        return is_over(self.value)


class Flows:
    """Every flow that a node's maps know."""

    def __init__(self, maps: Maps, facts: NodeFacts) -> None:
        self._maps, self._facts = maps, facts

    def _map(self, key: ConntrackKey) -> Any:
        return self._maps.conntrack_tcp if key.protocol == TCP else self._maps.conntrack_other

    def is_alive(self, value: ConntrackValue | None) -> bool:
        return value is not None and value.lifetime >= self._facts.tick()

    def find(self, key: ConntrackKey) -> Flow | None:
        value, opening = self._map(key).get(key), self._maps.conntrack_opening.get(key)
        if not self.is_alive(value) and opening is not None and (value is None or self.is_alive(opening)):
            return Flow(self._maps.conntrack_opening, key, opening)
        return Flow(self._map(key), key, value) if value is not None else None

    def lookup(self, key: ConntrackKey) -> Flow | None:
        found = self.find(key)
        return found if found is not None and self.is_alive(found.value) else None

    def likely(self, segment: Segment, key: ConntrackKey) -> Flow | None:
        if segment.protocol == TCP and segment.flags & SYN:
            return self.lookup(key)
        value = self._map(key).get(key)
        return Flow(self._map(key), key, value) if self.is_alive(value) else None

    def touch(self, flow: Flow, segment: Segment, *, is_reply: bool) -> None:
        flags, closing = segment.flags if segment.protocol == TCP else 0, flow.value.flags
        closing |= (SEEN_REPLY if is_reply else 0) | (
            (CLOSING_REPLY if is_reply else CLOSING_FORWARD) if flags & FIN else 0
        )
        side = (
            {"tcp_reply": flow.value.tcp_reply | flags} if is_reply else {"tcp_forward": flow.value.tcp_forward | flags}
        )
        flow.set(packets=flow.value.packets + 1, flags=closing, **side)
        flow.set(lifetime=self._facts.tick() + self._life(flow, segment))

    def _life(self, flow: Flow, segment: Segment) -> int:
        if segment.protocol != TCP:
            return self._facts.other
        if flow.is_over:
            return self._facts.closing
        return self._facts.established if flow.value.tcp_forward & flow.value.tcp_reply & ACK else self._facts.opening

    def establish(self, flow: Flow) -> None:
        self._map(flow.key).update([(flow.key, flow.value._replace(flags=flow.value.flags & ~OPENING))])
        flow.set(lifetime=0)

    def end(self, flow: Flow) -> None:
        """A connection of TCP that is over moves back to where flows begin."""
        value = flow.value._replace(flags=flow.value.flags | OPENING, lifetime=self._facts.tick() + self._facts.closing)
        self._maps.conntrack_opening.update([(flow.key, value)])
        self._maps.conntrack_tcp.delete([flow.key])

    def follow(self, service: Flow, connection: ConntrackValue, segment: Segment) -> bool:
        """A service's entry says of its connection what that says, and lies where it lies. True if it moved."""
        flags = (connection.flags & ~OPENING) | (service.value.flags & OPENING)
        service.set(
            lifetime=connection.lifetime,
            tcp_forward=connection.tcp_forward,
            tcp_reply=connection.tcp_reply,
            flags=flags,
        )
        if flags & OPENING:
            if not establishes(connection, segment):
                return False
            self.establish(service)
        else:
            if segment.protocol != TCP or not ends(connection, segment):
                return False
            self.end(service)
        return True

    def create(self, segment: Segment, key: ConntrackKey, value: ConntrackValue, old: Flow | None) -> None:
        life = self._facts.opening if segment.protocol == TCP else self._facts.other
        flags = segment.flags if segment.protocol == TCP else 0
        value = value._replace(tcp_forward=flags, lifetime=self._facts.tick() + life)
        if old is not None and not old.value.flags & OPENING:
            old.set(**value._asdict())
            return
        self._maps.conntrack_opening.update([(key, value._replace(flags=value.flags | OPENING))])


def key_of(segment: Segment, kind: ConntrackKind) -> ConntrackKey:
    ports = (segment.source_port, segment.destination_port)
    return ConntrackKey(segment.source, segment.destination, *ports, segment.protocol, kind)


def reverse_of(segment: Segment, kind: ConntrackKind) -> ConntrackKey:
    ports = (segment.destination_port, segment.source_port)
    return ConntrackKey(segment.destination, segment.source, *ports, segment.protocol, kind)


def establishes(connection: ConntrackValue, segment: Segment) -> bool:
    if segment.protocol != TCP:
        return bool(connection.flags & SEEN_REPLY)
    both = segment.flags & connection.tcp_reply & ACK
    return bool(both) and not segment.flags & RST and not is_over(connection)


def ends(connection: ConntrackValue, segment: Segment) -> bool:
    """Is it over with this packet, in the direction of opening, if not before?"""
    is_answered = bool(segment.flags & FIN and connection.flags & CLOSING_REPLY)
    return is_over(connection) or bool(segment.flags & RST) or is_answered


def is_over(value: ConntrackValue) -> bool:
    return bool((value.tcp_forward | value.tcp_reply) & RST) or value.flags & BOTH_CLOSING == BOTH_CLOSING
