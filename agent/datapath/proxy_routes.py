# SPDX-License-Identifier: Apache-2.0
"""What delivers packets to proxies of this node.

A packet that a program handed to a proxy's socket is for another address: a rule for its mark has the stack deliver it
locally nevertheless. The stack itself must find no socket for it before the program does: what it forwards has none, or is
dropped. And it must not ask whether the way back to the sender is the overlay device, by which all come that are handed over
for a pod, nor whether the sender is the node itself: the cluster's own proxy gives its address to whom it leads to a pod.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from agent.datapath import netlink
from agent.datapath.config import OVERLAY_DEVICE
from agent.datapath.errors import KernelError
from agent.datapath.proxy_marks import PROXY_MARKS, ProxyMark
from agent.datapath.untracked import leave_untracked, track_again

_RULE: Final = netlink.MarkRule(priority=9, mark=ProxyMark.TO_PROXY, mask=PROXY_MARKS, table=2005)
_CHECK: Final = "net.ipv4.conf.{}.rp_filter"
_OWN: Final = "net.ipv4.conf.{}.accept_local"
_NOWHERE: Final = "127.77.69.83"
"""Of the loopback network: nobody reaches it, and nothing takes it for the node's address."""
_OWN_REFUSED: Final = "cannot be set: node ports that lead to pods of their own node with HTTP rules hang; set it to 1"
_EARLY_DEMUX: Final = ("net.ipv4.tcp_early_demux", "net.ipv4.udp_early_demux")


def prepare_stack() -> str:
    """The stack leaves to the programs what is for a proxy. Why it does not, and what comes of it; else empty."""
    found = [look_for_no_socket_early(), take_own_address(OVERLAY_DEVICE)]
    try:
        leave_untracked()
    except KernelError as exc:
        found.append(f"{exc}: requests of pods that open many connections fail now and then")
    return "; ".join(filter(None, found))


def look_for_no_socket_early() -> str:
    """Packets that come to a proxied pod by the node's routes reach its program. Why they do not, else empty."""
    kept = [name for name in _EARLY_DEMUX if not netlink.set_sysctl(name, "0")]
    if not kept:
        return ""
    return f"{' and '.join(kept)} of this node cannot be set: requests of pods on other nodes of this cluster hang; set it to 0"


def add_proxy_routes() -> None:
    """Packets with the mark are delivered locally in this network namespace. Raises: KernelError."""
    netlink.deliver_marked(_RULE)


def take_any_source(ifindex: int, device: str) -> None:
    """What comes by the device is taken whichever way its source is; programs judge sources. Raises: KernelError.

    Where the check is on for the whole namespace, a device can only have it loose, and loosely it refuses everything of a
    device without an address.
    """
    take_own_address(device)
    is_off = netlink.sysctl(_CHECK.format("all")) in ("", "0")
    is_set = netlink.set_sysctl(_CHECK.format(device), "0" if is_off else "2")
    if not (is_off and is_set):
        netlink.hold_address(ifindex, _NOWHERE)


def take_own_address(device: str) -> str:
    """What comes by the device under an address of the node is taken too. Why it is not, and what comes of it, else empty."""
    name = _OWN.format(device)
    return "" if netlink.set_sysctl(name, "1") else f"{name} {_OWN_REFUSED}"


def remove_proxy_routes() -> None:
    """Nothing is left of `add_proxy_routes` and of `prepare_stack` but settings of the node. Raises: KernelError."""
    netlink.leave_marked(_RULE)
    with suppress(KernelError):  # a kernel without nf_tables has no rules of ours
        track_again()
