# SPDX-License-Identifier: Apache-2.0
"""What the node's resolver knows of a name."""

from __future__ import annotations

import socket
from collections.abc import Sequence


def ipv4_addresses(host: str) -> Sequence[str]:
    """The IPv4 addresses of a name, or of an address written out; none if nobody knows it now. Blocks."""
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except OSError:
        return ()
    return tuple(str(address[0]) for *_, address in found)
