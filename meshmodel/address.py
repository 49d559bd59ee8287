# SPDX-License-Identifier: Apache-2.0
"""Addresses and prefixes as they stand in records: text, without a zone; masks as base64 of their raw bytes."""

from __future__ import annotations

import base64
import ipaddress
import re
from typing import Final

from meshmodel.errors import ModelError

# Dotted quads are by far the most common: one match replaces a parse that costs four times as much.
_OCTET: Final = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_is_ipv4: Final = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}", re.ASCII).fullmatch


def is_ipv4(text: str) -> bool:
    """A dotted quad without leading zeros."""
    return _is_ipv4(text) is not None


def parse_address(text: str) -> str:
    """The address in canonical text; IPv4-mapped IPv6 becomes IPv4. Raises ModelError: not an address, or with a zone."""
    if _is_ipv4(text):
        return text
    if "%" in text:
        raise ModelError(f"address {text[:64]!r} has a zone, which means nothing to another machine")
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError as exc:
        raise ModelError(f"{text[:64]!r} is not an IP address") from exc
    mapped = address.ipv4_mapped
    return str(mapped) if mapped is not None else str(address)


def parse_prefix(text: str) -> str:
    """`network/length` with host bits masked off. Raises ModelError."""
    if "%" in text:
        raise ModelError(f"prefix {text[:64]!r} has a zone")
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError as exc:
        raise ModelError(f"{text[:64]!r} is not a prefix") from exc


def encode_mask(prefix: str) -> str:
    """Base64 of the raw mask bytes: `////AA==` for an IPv4 /24."""
    return base64.b64encode(ipaddress.ip_network(prefix).netmask.packed).decode()


def decode_prefix(network: str, mask: str) -> str:
    """From network address and base64 mask. Raises ModelError when the mask is not one, or of the other family."""
    address = parse_address(network)
    try:
        raw = base64.b64decode(mask, validate=True)
    except ValueError as exc:
        raise ModelError(f"mask {mask[:64]!r} is not base64") from exc
    bits = len(raw) * 8
    number = int.from_bytes(raw, "big")
    length = number.bit_count()
    if bits not in (32, 128) or number != ((1 << length) - 1) << (bits - length):
        raise ModelError(f"mask {mask[:64]!r} is not a network mask")
    if (bits == 128) != (":" in address):
        raise ModelError(f"mask {mask[:64]!r} is not of the family of {address}")
    return parse_prefix(f"{address}/{length}")
