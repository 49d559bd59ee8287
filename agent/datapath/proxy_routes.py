# SPDX-License-Identifier: Apache-2.0
"""What delivers packets to proxies of this node.

A packet that a program handed to a proxy's socket is for another address: a rule for its mark has the stack deliver it
locally nevertheless.
"""

from __future__ import annotations

from typing import Final

from agent.datapath import netlink
from agent.datapath.proxy_marks import PROXY_MARKS, ProxyMark

_RULE: Final = netlink.MarkRule(priority=9, mark=ProxyMark.TO_PROXY, mask=PROXY_MARKS, table=2005)


def add_proxy_routes() -> None:
    """Packets with the mark are delivered locally in this network namespace. Raises: KernelError."""
    netlink.deliver_marked(_RULE)


def remove_proxy_routes() -> None:
    """Nothing is left of `add_proxy_routes`. Raises: KernelError."""
    netlink.leave_marked(_RULE)
