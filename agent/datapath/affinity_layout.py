# SPDX-License-Identifier: Apache-2.0
"""Records of the maps that keep a client with its backend, packed as the structs of bpf/abi.h."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple, Self

from agent.datapath.address import FAMILY_IPV6, family_of, pack4, pack16, unpack4, unpack16

_KEY: Final = struct.Struct("<QIB3s")
_KEY6: Final = struct.Struct("<16sIB3s")
_VALUE: Final = struct.Struct("<QII")


class AffinityKey(NamedTuple):
    """`struct affinity_key`: one client of one service. Written by the kernel."""

    client: str
    service_id: int

    def pack(self) -> bytes:
        """16 bytes; the address sits in the low four bytes of a u64 that may hold a netns cookie later. Of IPv6: 24."""
        if family_of(self.client) == FAMILY_IPV6:
            return _KEY6.pack(pack16(self.client), self.service_id, 0, b"")
        client = int.from_bytes(pack4(self.client), "little")
        return _KEY.pack(client, self.service_id, 0, b"")

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        if len(raw) == _KEY6.size:
            address, service_id, _, _ = _KEY6.unpack(raw)
            return cls(unpack16(address, FAMILY_IPV6), service_id)
        client, service_id, _, _ = _KEY.unpack(raw)
        return cls(unpack4((client & 0xFFFFFFFF).to_bytes(4, "little")), service_id)


class AffinityValue(NamedTuple):
    """`struct affinity_value`: nanoseconds of CLOCK_MONOTONIC and the backend that answered."""

    last_used_ns: int
    backend_id: int

    def pack(self) -> bytes:
        """16 bytes."""
        return _VALUE.pack(self.last_used_ns, self.backend_id, 0)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        last_used_ns, backend_id, _ = _VALUE.unpack(raw)
        return cls(last_used_ns, backend_id)
