# SPDX-License-Identifier: Apache-2.0
"""Which ports of the node connections of outsiders go on from."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST, _LAST = 1024, 65535
_DEFAULT: Final = (32768, 60999)
ENOUGH: Final = 1024


class PortRange(NamedTuple):
    """`count` ports from `first` on."""

    first: int
    count: int  # type: ignore[assignment]  # reads as the word operators use; tuple.count is not used here


NO_PORTS: Final = PortRange(0, 0)


def ports_beside(low: int, high: int) -> PortRange:
    """The larger range beside the ports low..high that the node's own connections take; all where neither is large enough.

    A port that two use is no clash by itself: answers are told apart by all addresses and ports, and the programs pass over a
    port from which the node speaks to the same backend.
    """
    below = PortRange(_FIRST, max(0, min(low, _LAST + 1) - _FIRST))
    above = PortRange(max(high + 1, _FIRST), max(0, _LAST - max(high, _FIRST - 1)))
    larger = max(below, above, key=lambda found: found.count)
    return larger if larger.count >= ENOUGH else PortRange(_FIRST, _LAST + 1 - _FIRST)


def free_ports() -> PortRange:
    """For the network namespace of this thread, as its settings are now."""
    try:
        low, high = (int(number) for number in _RANGE.read_text(encoding="ascii").split())
    except (OSError, ValueError):
        low, high = _DEFAULT
    return ports_beside(low, high)
