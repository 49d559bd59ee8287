# SPDX-License-Identifier: Apache-2.0
"""The connections that a proxy of this node has taken from pods, and opened in their names, as the kernel lists them."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from agent.datapath.proxy_marks import PROXY_MARKS, ProxyMark
from agent.datapath.sock_diag import FoundSocket, asking_for_sockets, end_socket, marked_sockets

_OPENED: Final = (ProxyMark.EGRESS_UPSTREAM, ProxyMark.INGRESS_UPSTREAM)
_ALL: Final = (ProxyMark.EGRESS_REPLY, ProxyMark.INGRESS_REPLY, *_OPENED)


class ProxyConnection(NamedTuple):
    """`endpoint`: the pod of this node whose policy sends connections to the proxy. `is_opened`: by the proxy, to a server."""

    endpoint: str
    is_opened: bool
    socket: FoundSocket


def proxy_connections() -> list[ProxyConnection]:
    """Those of this thread's network namespace. Raises: KernelError, OSError."""
    return list(_connections())


def end_connections(connections: Iterable[ProxyConnection]) -> int:
    """None of them is open; returns how many were. Raises: KernelError as `end_socket`, OSError."""
    with asking_for_sockets() as asked:
        return sum(end_socket(asked, socket.IPPROTO_TCP, made.socket) for made in connections)


def _connections() -> Iterator[ProxyConnection]:
    with asking_for_sockets() as asked:
        for mark in _ALL:
            is_opened = mark in _OPENED
            is_far = mark in (ProxyMark.EGRESS_REPLY, ProxyMark.INGRESS_UPSTREAM)
            for found in marked_sockets(asked, socket.IPPROTO_TCP, mark, PROXY_MARKS):
                yield ProxyConnection(socket.inet_ntoa(found.far if is_far else found.near), is_opened, found)
