# SPDX-License-Identifier: Apache-2.0
"""Transport protocols by name and number. Pure. Source: IANA's protocol numbers; the names are those of Kubernetes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
ICMPV6: Final = 58
SCTP: Final = 132

PROTOCOL_NUMBERS: Final[Mapping[str, int]] = {"TCP": TCP, "UDP": UDP, "SCTP": SCTP, "ICMP": ICMP, "ICMPV6": ICMPV6}
PROTOCOL_NAMES: Final[Mapping[int, str]] = {number: name for name, number in PROTOCOL_NUMBERS.items()}
