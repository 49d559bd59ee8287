# SPDX-License-Identifier: Apache-2.0
"""Records of the map of source ranges, packed as the structs of bpf/abi.h."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple, Self

from agent.datapath.address import FAMILY_IPV4, FAMILY_IPV6, family_of, pack16, unpack16

_KEY: Final = struct.Struct("<II16s")
_VALUE: Final = struct.Struct("<I")
_SERVICE_BITS: Final = 32


class SourceRangeKey(NamedTuple):
    """`struct source_range_key`, longest prefix match: who may call the frontend that has this service id."""

    service_id: int
    range: str

    def pack(self) -> bytes:
        """24 bytes. Raises: ValueError for what is no prefix, or has bits beyond its length."""
        address, _, length = self.range.partition("/")
        raw, bits = pack16(address), int(length)
        width = 32 if family_of(address) == FAMILY_IPV4 else 128
        if not 0 <= bits <= width or int.from_bytes(raw, "big") & ((1 << (128 - bits)) - 1):
            raise ValueError(f"not a prefix: {self.range!r}")
        return _KEY.pack(_SERVICE_BITS + bits, self.service_id, raw)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        return cls._of_family(raw, FAMILY_IPV4)

    @classmethod
    def _of_family(cls, raw: bytes, family: int) -> Self:
        bits, service_id, address = _KEY.unpack(raw)
        return cls(service_id, f"{unpack16(address, family)}/{bits - _SERVICE_BITS}")


class SourceRangeKey6(SourceRangeKey):
    """The same in the map of IPv6: a key does not say which family its range is of."""

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        return cls._of_family(raw, FAMILY_IPV6)


class SourceRangeValue(NamedTuple):
    """Only its presence counts."""

    present: int = 1

    def pack(self) -> bytes:
        """4 bytes."""
        return _VALUE.pack(self.present)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        return cls(*_VALUE.unpack(raw))
