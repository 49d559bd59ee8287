# SPDX-License-Identifier: Apache-2.0
"""Ports of rules, as the twin reads them: how much of a packet each names, and whose it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.policy_twin import Packet


def is_of_peer(port: dict[str, Any], packet: Packet) -> bool:
    """A name of a port means what each peer of egress has of that name, so that the entry is of that peer."""
    number = port.get("port", 0)
    return packet.direction == "egress" and isinstance(number, str) and not number.isdigit()


def bits_of(first: int, last: int, port: int) -> int:
    """The high bits that the largest aligned block of ports around `port` and inside the range fixes."""
    for bits in range(17):
        size = 1 << (16 - bits)
        start = port - port % size
        if first <= start and start + size - 1 <= last:
            return bits
    raise AssertionError
