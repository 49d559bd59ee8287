# SPDX-License-Identifier: Apache-2.0
"""What the sockets of a proxy of this node say by their marks, and where it listens. Mirrors bpf/proxy.h. Pure."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

PROXY_ADDRESS: Final = "127.0.0.1"
"""Where a proxy listens, with IP_TRANSPARENT, on the port that policy entries name."""
PROXY_MARKS: Final = 0x0F00
"""The bits of a mark that the meanings below are in."""
UNTRACKED: Final = 0x1000
"""Beside TO_PROXY: the stack does not track the packet."""


class ProxyMark(IntEnum):
    """SO_MARK of a proxy's sockets. A mark of another meaning, or none, and the packets are not let through.

    TO_PROXY is what programs set. *_REPLY: of listening sockets, by the direction whose policy sent a connection there;
    accepted sockets have it too. *_UPSTREAM: of sockets that connect to the server from the client's address.
    """

    TO_PROXY = 0x0200
    EGRESS_REPLY = 0x0A00
    INGRESS_REPLY = 0x0B00
    EGRESS_UPSTREAM = 0x0C00
    INGRESS_UPSTREAM = 0x0D00
