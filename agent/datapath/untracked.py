# SPDX-License-Identifier: Apache-2.0
"""What the node's stack does not track: packets between a pod and the proxy that took its egress, servers' answers to that, and
packets that the stack has tracked before, on their way to a pod whose ingress the proxy takes.

A connection of a pod to a server and the one that the proxy opens in the pod's name have the same addresses, and now and then the
same ports, one after the other. The stack would take the pod's for the proxy's that it still remembers, which the CNI plugin's
rules may have given another source: answers would go nowhere. And answers that come by the overlay belong to none that it knows:
to Envoy it would tell them as a connection to the pod. A packet that the stack has sent to a pod and that is turned round for the
proxy would be of a second connection with the same ends, of which the node's rules may have changed the first one's: answers
would belong to the wrong one. Source: include/uapi/linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from agent.datapath import netlink
from agent.datapath.proxy_marks import PROXY_MARKS, UNTRACKED, ProxyMark

TABLE: Final = "clustermesh"
_RAW: Final = -300
"""Before connections are tracked."""
_ACCEPT: Final = 1
_MARK: Final = 3
_REGISTER: Final = 1
_EQUAL: Final = 0


def leave_untracked() -> None:
    """The rules are as this version wants them. Raises: KernelError."""

    def talk(tables: Any) -> None:
        tables.table("add", name=TABLE)
        tables.table("del", name=TABLE)
        tables.table("add", name=TABLE)
        for hook, mask, mark in (
            ("prerouting", PROXY_MARKS | UNTRACKED, ProxyMark.TO_PROXY | UNTRACKED),
            ("output", PROXY_MARKS, ProxyMark.EGRESS_REPLY),
        ):
            tables.chain("add", table=TABLE, name=hook, hook=hook, type="filter", priority=_RAW, policy=_ACCEPT)
            tables.rule("add", table=TABLE, chain=hook, expressions=(_has_mark(mask, mark),))

    netlink.change_tables("leave proxied packets untracked", talk)


def track_again() -> None:
    """Nothing is left of `leave_untracked`. Raises: KernelError."""

    def talk(tables: Any) -> None:
        tables.table("add", name=TABLE)
        tables.table("del", name=TABLE)

    netlink.change_tables("track proxied packets again", talk)


def _has_mark(mask: int, mark: int) -> list[dict[str, Any]]:
    """The expressions of a rule: the packet's mark within the mask is this, then it is not tracked."""
    return [
        _expression("meta", NFTA_META_DREG=_REGISTER, NFTA_META_KEY=_MARK),
        _expression(
            "bitwise",
            NFTA_BITWISE_SREG=_REGISTER,
            NFTA_BITWISE_DREG=_REGISTER,
            NFTA_BITWISE_LEN=4,
            NFTA_BITWISE_MASK=_value(mask),
            NFTA_BITWISE_XOR=_value(0),
        ),
        _expression("cmp", NFTA_CMP_SREG=_REGISTER, NFTA_CMP_OP=_EQUAL, NFTA_CMP_DATA=_value(mark)),
        {"attrs": [("NFTA_EXPR_NAME", "notrack")]},
    ]


def _expression(name: str, **attributes: Any) -> dict[str, Any]:
    return {"attrs": [("NFTA_EXPR_NAME", name), ("NFTA_EXPR_DATA", {"attrs": list(attributes.items())})]}


def _value(number: int) -> dict[str, Any]:
    return {"attrs": [("NFTA_DATA_VALUE", number.to_bytes(4, sys.byteorder))]}
