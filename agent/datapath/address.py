# SPDX-License-Identifier: Apache-2.0
"""Addresses as the maps store them: 4 bytes for IPv4 keys, 16 bytes (IPv4 first, then zeros) where IPv6 will fit."""

from __future__ import annotations

import socket
from typing import Final

ANY_ADDRESS: Final = "0.0.0.0"
FAMILY_IPV4: Final = 1
FAMILY_IPV6: Final = 2
_V4_BYTES: Final = 4
_V6_BYTES: Final = 16


def pack4(address: str) -> bytes:
    """Encode a dotted IPv4 address. Raises: ValueError when it is not one."""
    try:
        return socket.inet_pton(socket.AF_INET, address)
    except OSError as exc:
        raise ValueError(f"not an IPv4 address: {address!r}") from exc


def unpack4(raw: bytes) -> str:
    """Decode 4 bytes."""
    return socket.inet_ntop(socket.AF_INET, raw)


def family_of(address: str) -> int:
    """FAMILY_IPV4 or FAMILY_IPV6 by the look of the text; a wrong address fails when it is packed."""
    return FAMILY_IPV6 if ":" in address else FAMILY_IPV4


def pack16(address: str) -> bytes:
    """Encode an address of either family into 16 bytes. Raises: ValueError when it is neither."""
    if family_of(address) == FAMILY_IPV4:
        return pack4(address) + bytes(_V6_BYTES - _V4_BYTES)
    try:
        return socket.inet_pton(socket.AF_INET6, address)
    except OSError as exc:
        raise ValueError(f"not an IP address: {address!r}") from exc


def unpack16(raw: bytes, family: int = 0) -> str:
    """Decode 16 bytes; family 0 takes twelve trailing zero bytes as IPv4."""
    if family == FAMILY_IPV4 or (family == 0 and not any(raw[_V4_BYTES:])):
        return unpack4(raw[:_V4_BYTES])
    return socket.inet_ntop(socket.AF_INET6, raw)


def pack_mac(mac: str) -> bytes:
    """Encode aa:bb:cc:dd:ee:ff. Raises: ValueError when it is not six bytes."""
    raw = bytes.fromhex(mac.replace(":", ""))
    if len(raw) != 6:
        raise ValueError(f"not a MAC address: {mac!r}")
    return raw


def unpack_mac(raw: bytes) -> str:
    """Decode six bytes."""
    return raw.hex(":")
