# SPDX-License-Identifier: Apache-2.0
"""Records of the map of outsiders' connections, packed as the structs of bpf/abi.h. Written by the kernel."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple, Self

from agent.datapath.address import pack16, unpack16

_KEY: Final = struct.Struct("<16s16s2s2sBBH")
_VALUE: Final = struct.Struct("<QQ16s16s2s2sIIBBHII")


class NatDirection(IntEnum):
    """FORWARD: what the client sends becomes the value. REPLY: what the backend sends does."""

    FORWARD = 0
    REPLY = 1


class NatKey(NamedTuple):
    """`struct nat_key`: a packet as it comes."""

    source: str
    destination: str
    source_port: int
    destination_port: int
    protocol: int
    direction: int = NatDirection.FORWARD

    def pack(self) -> bytes:
        """40 bytes."""
        addresses = (pack16(self.source), pack16(self.destination))
        ports = (self.source_port.to_bytes(2, "big"), self.destination_port.to_bytes(2, "big"))
        return _KEY.pack(*addresses, *ports, self.protocol, self.direction, 0)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        source, destination, source_port, destination_port, protocol, direction, _ = _KEY.unpack(raw)
        ports = (int.from_bytes(source_port, "big"), int.from_bytes(destination_port, "big"))
        return cls(unpack16(source), unpack16(destination), *ports, protocol, direction)


class NatValue(NamedTuple):
    """`struct nat_value`: what becomes of it; `lifetime` is the last tick (2^30 ns of CLOCK_MONOTONIC) of the entry.

    `reported_*`: the tick of the last packet of that direction that was traced.
    `flags` 1: left to the node's stack, because the backend is one of the own cluster.
    """

    packets: int
    octets: int
    source: str
    destination: str
    source_port: int
    destination_port: int
    lifetime: int
    backend_id: int
    tcp_forward: int = 0
    tcp_reply: int = 0
    flags: int = 0
    reported_forward: int = 0
    reported_reply: int = 0

    def pack(self) -> bytes:
        """72 bytes."""
        addresses = (pack16(self.source), pack16(self.destination))
        ports = (self.source_port.to_bytes(2, "big"), self.destination_port.to_bytes(2, "big"))
        return _VALUE.pack(self.packets, self.octets, *addresses, *ports, *self[6:])

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        packets, octets, source, destination, source_port, destination_port, *rest = _VALUE.unpack(raw)
        ports = (int.from_bytes(source_port, "big"), int.from_bytes(destination_port, "big"))
        return cls(packets, octets, unpack16(source), unpack16(destination), *ports, *rest)
