# SPDX-License-Identifier: Apache-2.0
"""Ethernet frames from and to facts. Written apart from the datapath: a twin, not a user of its code."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, replace

ICMP, TCP, UDP, SCTP = 1, 6, 17, 132
SCTP_INIT = 1
SYN, ACK, FIN, RST = 2, 16, 1, 4
POD_MAC, NODE_MAC = bytes.fromhex("020000000a01"), bytes.fromhex("020000000b01")


def checksum(data: bytes) -> int:
    """The Internet checksum, RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def crc32c(data: bytes) -> int:
    """The checksum of SCTP, RFC 9260 appendix A, over data whose checksum is zero; bit by bit."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def _raw(address: str) -> bytes:
    return ipaddress.IPv4Address(address).packed


@dataclass(frozen=True)
class Packet:
    """One IPv4 packet. `flags` are TCP flags; for ICMP the ports are (type << 8 | code) and the echo id. SCTP
    with the flags of TCP's SYN is an INIT.

    `udp_checksum`: whether UDP, or SCTP (whose device would make it), has its checksum.
    """

    source: str
    destination: str
    protocol: int = TCP
    source_port: int = 40000
    destination_port: int = 80
    flags: int = SYN
    payload: bytes = b"hello"
    ttl: int = 64
    ip_options: bytes = b""
    identification: int = 1
    fragment: int = 0x4000
    udp_checksum: bool = True

    @property
    def reverse(self) -> Packet:
        """The answer a peer would send."""
        return replace(
            self,
            source=self.destination,
            destination=self.source,
            source_port=self.destination_port,
            destination_port=self.source_port,
            flags=self.flags | ACK,
        )

    def transport(self) -> bytes:
        """The bytes after the IP header, with a right checksum."""
        if self.protocol == TCP:
            head = struct.pack(
                "!HHIIBBHHH", self.source_port, self.destination_port, 1, 1, 0x50, self.flags, 8192, 0, 0
            )
            return self._sealed(head + self.payload, 16)
        if self.protocol == UDP:
            head = struct.pack("!HHHH", self.source_port, self.destination_port, 8 + len(self.payload), 0)
            return self._sealed(head + self.payload, 6) if self.udp_checksum else head + self.payload
        if self.protocol == SCTP:
            head = struct.pack("!HHII", self.source_port, self.destination_port, 0 if self.flags == SYN else 7, 0)
            raw = head + struct.pack("!BBH", SCTP_INIT, 0, 4 + len(self.payload)) + self.payload
            return raw[:8] + struct.pack("<I", crc32c(raw) if self.udp_checksum else 0) + raw[12:]
        if self.protocol == ICMP:
            raw = struct.pack("!HHHH", self.source_port, 0, self.destination_port, 1) + self.payload
            return raw[:2] + struct.pack("!H", checksum(raw)) + raw[4:]
        return self.payload

    def ip(self) -> bytes:
        """The IP packet."""
        body = self.payload if self.fragment & 0x1FFF else self.transport()
        words = 5 + len(self.ip_options) // 4
        addresses = _raw(self.source) + _raw(self.destination) + self.ip_options
        lengths = (words * 4 + len(body), self.identification, self.fragment)
        head = struct.pack("!BBHHHBBH", 0x40 | words, 0, *lengths, self.ttl, self.protocol, 0) + addresses
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body

    def frame(self) -> bytes:
        """The Ethernet frame."""
        return NODE_MAC + POD_MAC + b"\x08\0" + self.ip()

    def _sealed(self, raw: bytes, at: int) -> bytes:
        value = checksum(self._pseudo_header(len(raw)) + raw) or 0xFFFF
        return raw[:at] + struct.pack("!H", value) + raw[at + 2 :]

    def _pseudo_header(self, length: int) -> bytes:
        return _raw(self.source) + _raw(self.destination) + struct.pack("!BBH", 0, self.protocol, length)


def read(frame: bytes) -> Packet:
    """The packet in a frame; fails when one of its checksums is wrong."""
    ip = frame[14:]
    words = ip[0] & 0xF
    assert checksum(ip[: words * 4]) == 0, "IP header checksum"
    source, destination = (str(ipaddress.IPv4Address(ip[i : i + 4])) for i in (12, 16))
    identification, fragment = struct.unpack("!HH", ip[4:8])
    body = ip[words * 4 : struct.unpack("!H", ip[2:4])[0]]
    packet = Packet(
        source, destination, ip[9], ttl=ip[8], ip_options=ip[20 : words * 4], identification=identification,
        fragment=fragment, payload=body,
    )  # fmt: skip
    if fragment & 0x1FFF:
        return packet
    if packet.protocol == ICMP:
        assert checksum(body) == 0, "ICMP checksum"
        return replace(
            packet, source_port=struct.unpack("!H", body[:2])[0], destination_port=struct.unpack("!H", body[4:6])[0],
            payload=body[8:],
        )  # fmt: skip
    if packet.protocol not in (TCP, UDP, SCTP):
        return packet
    ports = struct.unpack("!HH", body[:4])
    whole = not fragment & 0x2000
    if packet.protocol == SCTP:
        (sum_,) = struct.unpack("<I", body[8:12])
        assert not sum_ or sum_ == crc32c(body[:8] + bytes(4) + body[12:]), "SCTP checksum"
        return replace(
            packet,
            source_port=ports[0],
            destination_port=ports[1],
            udp_checksum=sum_ != 0,
            payload=body[16:],
            flags=ACK if any(body[4:8]) else SYN,
        )
    has_checksum = packet.protocol == TCP or body[6:8] != b"\0\0"
    if whole and has_checksum:
        assert checksum(packet._pseudo_header(len(body)) + body) == 0, "transport checksum"
    packet = replace(packet, source_port=ports[0], destination_port=ports[1], udp_checksum=has_checksum)
    if packet.protocol == TCP:
        return replace(packet, flags=body[13], payload=body[20:])
    return replace(packet, payload=body[8:])


def icmp_error(source: str, quoted: Packet, kind: int = 3, code: int = 3) -> Packet:
    """The error `source` sends to the sender of `quoted`."""
    quote = quoted.ip()[: 20 + len(quoted.ip_options) + 8]
    return Packet(source, quoted.source, ICMP, kind << 8 | code, 0, payload=quote)


def read_quote(packet: Packet) -> Packet:
    """The packet quoted by an ICMP error; its header checksum must be right."""
    ip = packet.payload
    assert checksum(ip[:20]) == 0, "quoted IP header checksum"
    source, destination = (str(ipaddress.IPv4Address(ip[i : i + 4])) for i in (12, 16))
    ports = struct.unpack("!HH", ip[20:24])
    return Packet(source, destination, ip[9], *ports)
