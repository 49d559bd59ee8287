# SPDX-License-Identifier: Apache-2.0
"""Protocols and ports: what a rule may say about layer 4, and the masked prefixes that say it in a trie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from meshmodel import protocol

ANY_PROTOCOL: Final = 0
ICMP: Final = protocol.ICMP
TCP: Final = protocol.TCP
UDP: Final = protocol.UDP
ICMPV6: Final = protocol.ICMPV6
SCTP: Final = protocol.SCTP

PORT_PROTOCOLS: Final = (TCP, UDP, SCTP)
PORTLESS_PROTOCOLS: Final[Mapping[str, int]] = {
    "IGMP": 2,
    "IPIP": 4,
    "IPV6": 41,
    "GRE": 47,
    "ESP": 50,
    "AH": 51,
    "VRRP": 112,
}
"""Further protocols a port rule may name. They have no ports: such a rule is about all of the protocol's packets."""

PROTOCOL_NUMBERS: Final[Mapping[str, int]] = {**protocol.PROTOCOL_NUMBERS, **PORTLESS_PROTOCOLS}
PROTOCOL_NAMES: Final[Mapping[int, str]] = {
    ANY_PROTOCOL: "ANY",
    **protocol.PROTOCOL_NAMES,
    **{number: name for name, number in PORTLESS_PROTOCOLS.items()},
}

MAXIMUM_PORT: Final = 65535
PORT_BITS: Final = 16
_REMEMBERED: Final = 4096

NamedPorts = Mapping[str, tuple[int, int]]
"""Port name → (port, protocol number; 0 = any) of one pod."""


class L4Key(NamedTuple):
    """The layer 4 part of a map key: `bits` high bits of `port` count; protocol 0 needs bits 0."""

    protocol: int
    port: int
    bits: int

    def covers(self, other: L4Key) -> bool:
        """Whether every packet that matches `other` matches this."""
        if self.protocol == ANY_PROTOCOL:
            return True
        shift = PORT_BITS - self.bits
        return self.protocol == other.protocol and self.bits <= other.bits and self.port >> shift == other.port >> shift


EVERYTHING: Final = L4Key(ANY_PROTOCOL, 0, 0)


class PortSpec(NamedTuple):
    """One port of a rule for one protocol: a number (0 = every port), an inclusive range, or a name."""

    protocol: int
    first: int = 0
    last: int = 0
    name: str = ""

    def __str__(self) -> str:
        port = self.name or (f"{self.first}-{self.last}" if self.last > self.first else str(self.first))
        return f"{port}/{PROTOCOL_NAMES.get(self.protocol, str(self.protocol))}"

    def map_keys(self) -> tuple[L4Key, ...]:
        """The map keys of a numeric spec; a name has none of its own."""
        if self.name:
            return ()
        return _keys_of(self.protocol, self.first, self.last)

    def resolved(self, ports: NamedPorts) -> PortSpec | None:
        """The numeric spec that the name means here; None if it is not defined or is of another protocol."""
        port, protocol = ports.get(self.name, (0, ANY_PROTOCOL))
        if port == 0 or protocol not in (ANY_PROTOCOL, self.protocol):
            return None
        return PortSpec(self.protocol, port, port)


@lru_cache(maxsize=_REMEMBERED)
def _keys_of(protocol: int, first: int, last: int) -> tuple[L4Key, ...]:
    return tuple(L4Key(protocol, port, bits) for port, bits in masked_ports(first, last))


def masked_ports(first: int, last: int) -> Iterator[tuple[int, int]]:
    """Cover first..last with as few (port, bits) prefixes as possible: at most 30.

    A range from 0 to 0 or to 65535 is every port; an end that is not above the start means the start alone.
    """
    if first == 0 and last in (0, MAXIMUM_PORT):
        yield 0, 0
        return
    last = max(first, last)
    while first <= last:
        size = first & -first or 1 << PORT_BITS
        while size > last - first + 1:
            size >>= 1
        yield first, PORT_BITS + 1 - size.bit_length()
        first += size


def parse_protocol(text: str) -> tuple[int, ...]:
    """The protocol numbers of a port rule's protocol; empty and ANY are those that have ports. Raises ValueError."""
    upper = text.upper()
    if upper in ("", "ANY"):
        return PORT_PROTOCOLS
    if upper in ("TCP", "UDP", "SCTP", *PORTLESS_PROTOCOLS):
        return (PROTOCOL_NUMBERS[upper],)
    raise ValueError(text)
