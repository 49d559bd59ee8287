# SPDX-License-Identifier: Apache-2.0
"""Ends connected sockets of the node whose backend is gone: the process gets ECONNABORTED at once, and may connect anew.

A socket that was led to a backend speaks to it directly from then on: no program sees that the address is nobody's any more,
and TCP would wait for a quarter of an hour. Only sockets that a program led there are ended.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

from agent.datapath.address import pack4
from agent.datapath.maps import Map
from agent.datapath.sock_diag import FoundSocket, asking_for_sockets, connected_sockets, end_socket
from agent.datapath.socket_layout import SocketKey, SocketValue

_MAPPED: Final = bytes(10) + b"\xff\xff"
_FEW: Final = 8  # ports that the kernel is asked about one by one


class BackendPlace(NamedTuple):
    """A backend as sockets see it; `protocol` is the IP protocol number."""

    address: str
    port: int
    protocol: int


def end_sockets(led: Map[SocketKey, SocketValue], places: Collection[BackendPlace]) -> int:
    """No socket of this thread's namespace that was led to one of these places is connected; returns how many were.

    `led`: which sockets were led where, as the programs remember. Raises: KernelError (EOPNOTSUPP: the kernel cannot end
    sockets, CONFIG_INET_DIAG_DESTROY is not set).
    """
    ended = 0
    with asking_for_sockets() as asked:
        for protocol in sorted({place.protocol for place in places}):
            by_peer = {(pack4(p.address), p.port): p for p in places if p.protocol == protocol}
            for found in list(_list(asked, protocol, {p.port for p in by_peer.values()})):
                far = found.far.removeprefix(_MAPPED)
                place = by_peer.get((far, found.far_port))
                if place is not None and led.get(SocketKey(found.cookie, *place)) is not None:
                    ended += end_socket(asked, protocol, found)
    return ended


def _list(asked: socket.socket, protocol: int, ports: Collection[int]) -> Iterator[FoundSocket]:
    """Connected sockets to these ports, and maybe others."""
    for port in sorted(ports) if len(ports) <= _FEW else (0,):
        for family in (socket.AF_INET, socket.AF_INET6):
            yield from connected_sockets(asked, family, protocol, port)
