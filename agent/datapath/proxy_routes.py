# SPDX-License-Identifier: Apache-2.0
"""What delivers packets to proxies of this node, and the marks of what proxies send.

A packet that a program handed to a proxy's socket is for another address: a rule for its mark has the stack deliver it
locally nevertheless. Mirrors bpf/proxy.h.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from enum import IntEnum
from typing import Any, Final

from agent.datapath.errors import KernelError
from agent.datapath.netlink import converse

TABLE: Final = 2005
PRIORITY: Final = 9
PROXY_ADDRESS: Final = "127.0.0.1"
"""Where a proxy listens, with IP_TRANSPARENT, on the port that policy entries name."""
_MASK: Final = 0x0F00
_LOOPBACK_IFINDEX: Final = 1
_RTN_LOCAL: Final = 2
_RT_SCOPE_HOST: Final = 254


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


def add_proxy_routes() -> None:
    """Packets with the mark are delivered locally in this network namespace. Raises: KernelError."""

    def talk(route: Any) -> None:
        with _ignoring(errno.EEXIST):
            route.rule(
                "add", family=socket.AF_INET, priority=PRIORITY, fwmark=ProxyMark.TO_PROXY, fwmask=_MASK, table=TABLE
            )
        place = {"family": socket.AF_INET, "dst": "default", "oif": _LOOPBACK_IFINDEX, "table": TABLE}
        route.route("replace", type=_RTN_LOCAL, scope=_RT_SCOPE_HOST, **place)

    converse("route packets for proxies", talk)


def remove_proxy_routes() -> None:
    """Nothing is left of `add_proxy_routes`. Raises: KernelError."""

    def talk(route: Any) -> None:
        with _ignoring(errno.ENOENT):
            route.rule(
                "del", family=socket.AF_INET, priority=PRIORITY, fwmark=ProxyMark.TO_PROXY, fwmask=_MASK, table=TABLE
            )
        with _ignoring(errno.ESRCH):
            route.flush_routes(family=socket.AF_INET, table=TABLE)

    converse("remove the routes of proxies", talk)


@contextlib.contextmanager
def _ignoring(code: int) -> Any:
    from pyroute2 import NetlinkError

    try:
        yield
    except NetlinkError as exc:
        if exc.code != code:
            raise KernelError("route packets for proxies", exc.code or errno.EIO, str(exc)) from exc
