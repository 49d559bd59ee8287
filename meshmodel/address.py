# SPDX-License-Identifier: Apache-2.0
"""Addresses and prefixes as text, in one canonical form, so that equal ones are equal strings."""

from __future__ import annotations

import base64
import ipaddress
import re
from typing import Final

PROTOCOLS: Final = frozenset({"TCP", "UDP", "SCTP"})
_OCTET: Final = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4: Final = re.compile(rf"{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}")
is_ipv4: Final = _IPV4.fullmatch
_MAXIMUM_LENGTH: Final = 45


def canonical_ip(text: str) -> str:
    """The address in its one form: dotted quad, or compressed lower-case IPv6; an IPv4-mapped one becomes IPv4.

    Raises: ValueError for anything else, a zone included.
    """
    if is_ipv4(text):
        return text
    if len(text) > _MAXIMUM_LENGTH or "%" in text or ":" not in text:
        raise ValueError(f"{text[:64]!r} is no IP address")
    address = ipaddress.IPv6Address(text)
    return str(address.ipv4_mapped or address)


def place_of(address: str, port: int) -> str:
    """As people write them together: an address of IPv6 is in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def host_prefix(address: str) -> str:
    """The prefix that has this canonical address only."""
    return f"{address}/128" if ":" in address else f"{address}/32"


def host_of(prefix: str) -> str | None:
    """The address that a canonical prefix has only; None for a larger network."""
    address, _, length = prefix.partition("/")
    return address if length == ("128" if ":" in address else "32") else None


def canonical_prefix(text: str) -> str:
    """The network as address/length with host bits cleared; an address alone is its own full-length prefix.

    Raises: ValueError.
    """
    address, slash, length = text.partition("/")
    ip = canonical_ip(address)
    if not slash:
        return f"{ip}/{128 if ':' in ip else 32}"
    if not length.isdecimal() or not length.isascii() or len(length) > 3:
        raise ValueError(f"{text[:64]!r} is no prefix")
    return str(ipaddress.ip_network(f"{ip}/{length}", strict=False))


def mask_of(prefix: str) -> str:
    """The mask of a canonical prefix as base64 of its 4 or 16 bytes, the wire's form."""
    return base64.b64encode(ipaddress.ip_network(prefix).netmask.packed).decode()


def prefix_length(mask: str) -> int:
    """The length a wire mask stands for: base64 of 4 or 16 bytes, ones first.

    Raises: ValueError.
    """
    known = _LENGTHS.get(mask)
    if known is None:
        raise ValueError(f"mask {mask[:32]!r} is not the base64 of an IPv4 or IPv6 mask")
    return known


def has_prefix_mask(address: str, mask: str) -> bool:
    """Whether a wire mask is of the address's family and has no holes. Raises: ValueError when it is no base64."""
    if mask in _LENGTHS:
        return len(base64.b64decode(mask)) == (16 if ":" in address else 4)
    try:
        base64.b64decode(mask, validate=True)
    except ValueError:
        raise ValueError(f"mask {mask[:32]!r} is not base64") from None
    return False


def join_prefix(address: str, mask: str) -> str:
    """The canonical prefix of a wire address and its wire mask. Raises: ValueError when the families differ."""
    ip = canonical_ip(address)
    length = prefix_length(mask)
    if len(base64.b64decode(mask)) != (16 if ":" in ip else 4):
        raise ValueError(f"mask of another family than {ip}")
    return canonical_prefix(f"{ip}/{length}")


def _all_lengths() -> dict[str, int]:
    found = {}
    for bits in (32, 128):
        for length in range(bits + 1):
            mask = ((1 << bits) - 1) ^ ((1 << (bits - length)) - 1)
            found[base64.b64encode(mask.to_bytes(bits // 8)).decode()] = length
    return found


_LENGTHS: Final = _all_lengths()
