# SPDX-License-Identifier: Apache-2.0
"""Ethernet frames of IPv6 from and to facts. Written apart from the datapath: a twin, not a user of its code."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, replace

from tests.packet.packet_bytes import NODE_MAC, POD_MAC, SCTP, TCP, UDP, Packet, checksum

ICMPV6 = 58
FRAGMENT = 44
ECHO, ECHO_REPLY = 128, 129
SOLICITATION, ADVERTISEMENT = 135, 136


@dataclass(frozen=True)
class Packet6(Packet):
    """One packet of IPv6; `ttl` is its hop limit. `extensions`: (number, bytes) of headers before the transport's, without
    their next-header byte. For ICMPv6 the ports are (type << 8 | code) and the echo id; `target`: of neighbour discovery."""

    extensions: tuple[tuple[int, bytes], ...] = ()
    target: str = ""
    is_later_fragment: bool = False

    def transport(self) -> bytes:
        """The bytes after the IP headers, with a right checksum."""
        if self.protocol != ICMPV6:
            return super().transport()
        second = b"" if self.target else struct.pack("!HH", self.destination_port, 1)
        raw = struct.pack("!HH", self.source_port, 0) + (second or bytes(4))
        raw += ipaddress.IPv6Address(self.target).packed if self.target else b""
        return self._sealed(raw + self.payload, 2)

    def ip(self) -> bytes:
        """The IP packet."""
        body = self.payload if self.is_later_fragment else self.transport()
        numbers = [number for number, _ in self.extensions] + [self.protocol]
        rest = b"".join(bytes([numbers[i + 1]]) + raw for i, (_, raw) in enumerate(self.extensions)) + body
        head = struct.pack("!IHBB", 6 << 28, len(rest), numbers[0], self.ttl)
        return head + _raw(self.source) + _raw(self.destination) + rest

    def frame(self) -> bytes:
        """The Ethernet frame."""
        return NODE_MAC + POD_MAC + b"\x86\xdd" + self.ip()

    def _pseudo_header(self, length: int) -> bytes:
        return _raw(self.source) + _raw(self.destination) + struct.pack("!II", length, self.protocol)


def _raw(address: str) -> bytes:
    return ipaddress.IPv6Address(address).packed


def read6(frame: bytes) -> Packet6:
    """The packet in a frame without extension headers; fails when its checksum is wrong."""
    ip = frame[14:]
    source, destination = (str(ipaddress.IPv6Address(ip[i : i + 16])) for i in (8, 24))
    length, number, limit = struct.unpack("!HBB", ip[4:8])
    body = ip[40 : 40 + length]
    packet = Packet6(source, destination, number, ttl=limit, payload=body)
    if number == UDP and body[6:8] == b"\0\0":
        return packet
    if number in (TCP, UDP, ICMPV6):
        assert checksum(packet._pseudo_header(len(body)) + body) == 0, "transport checksum"
    if number == ICMPV6:
        kind, _, identification = struct.unpack("!HHH", body[:6])
        return replace(packet, source_port=kind, destination_port=identification, payload=body[8:])
    if number not in (TCP, UDP, SCTP):
        return packet
    ports = struct.unpack("!HH", body[:4])
    packet = replace(packet, source_port=ports[0], destination_port=ports[1])
    return replace(packet, flags=body[13], payload=body[20:]) if number == TCP else replace(packet, payload=body[8:])


def fragment6(number: int, offset: int, *, more: bool) -> tuple[int, bytes]:
    """A fragment header; `offset` in units of 8 bytes."""
    return FRAGMENT, struct.pack("!xHI", offset << 3 | more, number)


def icmp_error6(source: str, quoted: Packet6, kind: int = 1, code: int = 4) -> Packet6:
    """The error `source` sends to the sender of `quoted`."""
    return Packet6(source, quoted.source, ICMPV6, kind << 8 | code, 0, payload=quoted.ip()[:48])


def discovery(
    source: str, destination: str, kind: int, target: str = "", mac: bytes = POD_MAC, option: int = 0, ttl: int = 255
) -> Packet6:
    """Neighbour discovery with one link-layer option (1 the sender's, 2 the target's; 0: none)."""
    options = bytes([option, 1]) + mac if option else b""
    return Packet6(source, destination, ICMPV6, kind << 8, 0, payload=options, ttl=ttl, target=target)
