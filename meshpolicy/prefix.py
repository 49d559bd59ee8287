# SPDX-License-Identifier: Apache-2.0
"""IP prefixes as comparable numbers, parsed as strictly as the reference parses them."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import NamedTuple

_BITS = re.compile(r"(0|[1-9][0-9]{0,2})")
_WIDTH = {4: 32, 6: 128}
_REMEMBERED = 4096


class Cidr(NamedTuple):
    """`network` has its host bits cleared; `bits` counts the significant ones."""

    version: int
    network: int
    bits: int

    def __str__(self) -> str:
        address = ipaddress.IPv4Address(self.network) if self.version == 4 else ipaddress.IPv6Address(self.network)
        return f"{address}/{self.bits}"

    @property
    def width(self) -> int:
        """Bits of an address of this family."""
        return _WIDTH[self.version]

    @property
    def last(self) -> int:
        """The highest address inside."""
        return self.network | ((1 << (self.width - self.bits)) - 1)

    def covers(self, other: Cidr) -> bool:
        """Whether every address of `other` is inside; a prefix covers itself."""
        return (
            self.version == other.version
            and self.bits <= other.bits
            and (other.network >> (self.width - self.bits)) == (self.network >> (self.width - self.bits))
        )

    def shortened(self, bits: int) -> Cidr:
        """The covering prefix of `bits` significant bits."""
        shift = self.width - bits
        return Cidr(self.version, (self.network >> shift) << shift, bits)


def parse_address(text: str) -> Cidr:
    """Read one address as a host prefix. Raises ValueError; zones are refused."""
    if "%" in text:
        raise ValueError("an address zone has no meaning in a policy")
    address = ipaddress.ip_address(text)
    return Cidr(address.version, int(address), _WIDTH[address.version])


def parse_prefix(text: str) -> Cidr:
    """Read address/bits and clear the host bits. Raises ValueError; netmask notation and leading zeros are refused."""
    address_text, slash, bits_text = text.partition("/")
    address = parse_address(address_text)
    if not slash or not _BITS.fullmatch(bits_text) or int(bits_text) > address.width:
        raise ValueError(f"{text!r} is not an address followed by /0 to /{address.width}")
    return address.shortened(int(bits_text))


def label_key(prefix: Cidr) -> str:
    """The key of the cidr: label; label keys have no colons and neither begin nor end with the dash in their place."""
    address, _, bits = str(prefix).replace(":", "-").partition("/")
    return f"{'0' * address.startswith('-')}{address}{'0' * address.endswith('-')}/{bits}"


@lru_cache(maxsize=_REMEMBERED)
def parse_label_key(key: str) -> Cidr | None:
    """Read a cidr: label's key, a prefix or a bare address; None if it is neither."""
    text = key if "." in key else key.replace("-", ":")
    try:
        return parse_prefix(text) if "/" in text else parse_address(text)
    except ValueError:
        return None
