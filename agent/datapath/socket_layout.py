# SPDX-License-Identifier: Apache-2.0
"""Records of the map of sockets, packed as the structs of bpf/abi.h. Written by the kernel."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple, Self

from agent.datapath.address import pack16, unpack16

_KEY: Final = struct.Struct("<Q16s2sBBI")
_VALUE: Final = struct.Struct("<16s2sHI")


class SocketDirection(IntEnum):
    """What an entry says: to which backend datagrams to a frontend go, or which frontend a backend stands for."""

    TO_BACKEND = 0
    TO_FRONTEND = 1


class SocketKey(NamedTuple):
    """`struct socket_key`: one socket of the node, by the kernel's cookie, and whom it speaks to."""

    cookie: int
    address: str
    port: int
    protocol: int
    direction: int = SocketDirection.TO_FRONTEND

    def pack(self) -> bytes:
        """32 bytes."""
        port = self.port.to_bytes(2, "big")
        return _KEY.pack(self.cookie, pack16(self.address), port, self.protocol, self.direction, 0)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        cookie, address, port, protocol, direction, _ = _KEY.unpack(raw)
        return cls(cookie, unpack16(address), int.from_bytes(port, "big"), protocol, direction)


class SocketValue(NamedTuple):
    """`struct socket_value`: the other one of frontend and backend."""

    address: str
    port: int
    backend_id: int

    def pack(self) -> bytes:
        """24 bytes."""
        return _VALUE.pack(pack16(self.address), self.port.to_bytes(2, "big"), 0, self.backend_id)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        address, port, _, backend_id = _VALUE.unpack(raw)
        return cls(unpack16(address), int.from_bytes(port, "big"), backend_id)
