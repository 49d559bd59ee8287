# SPDX-License-Identifier: Apache-2.0
"""The connections of pods that a proxy of this node has taken, as the kernel lists them."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from agent.datapath.proxy_marks import PROXY_MARKS, ProxyMark
from agent.datapath.sock_diag import FoundSocket, asking_for_sockets, end_socket, marked_sockets


class ProxyConnection(NamedTuple):
    """`endpoint`: the pod of this node whose policy sent the connection to the proxy."""

    endpoint: str
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
        for found in marked_sockets(asked, socket.IPPROTO_TCP, ProxyMark.EGRESS_REPLY, PROXY_MARKS):
            yield ProxyConnection(socket.inet_ntoa(found.far), found)
        for found in marked_sockets(asked, socket.IPPROTO_TCP, ProxyMark.INGRESS_REPLY, PROXY_MARKS):
            yield ProxyConnection(socket.inet_ntoa(found.near), found)
