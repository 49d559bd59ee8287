# SPDX-License-Identifier: Apache-2.0
"""Ends connected sockets of the node whose backend is gone: the process gets ECONNABORTED at once, and may connect anew.

A socket that was led to a backend speaks to it directly from then on: no program sees that the address is nobody's any more,
and TCP would wait for a quarter of an hour. Only sockets that a program led there are ended. Source: linux/{sock_diag,
inet_diag}.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

from agent.datapath.address import pack4
from agent.datapath.errors import KernelError
from agent.datapath.maps import Map
from agent.datapath.socket_layout import SocketKey, SocketValue

_HEADER: Final = struct.Struct("<IHHII")
_REQUEST: Final = struct.Struct("<BBBBI")  # family, protocol, extensions, pad, states; then the id
_ID: Final = struct.Struct(">HH16s16s")  # ports and addresses; then interface and cookie
_ID_BYTES: Final = 48
_ID_AT: Final = 4  # in an answer
_COOKIE_AT: Final = 40  # in an id
_ERROR: Final = struct.Struct("<i")
_BY_FAMILY, _DESTROY = 20, 21
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_F_REQUEST, _F_ACK, _F_DUMP = 1, 4, 0x300
_SOCK_DIAG: Final = 4
_RECEIVE_BYTES: Final = 1 << 16
_CONNECTED: Final = sum(1 << state for state in (1, 2, 4, 5, 8, 9, 11))  # neither listening, closed nor in TIME_WAIT
_MAPPED: Final = bytes(10) + b"\xff\xff"
_FEW: Final = 8  # ports that the kernel is asked about one by one
_ENDED_MEANWHILE: Final = frozenset({errno.ENOENT, errno.ESTALE})


class BackendPlace(NamedTuple):
    """A backend as sockets see it; `protocol` is the IP protocol number."""

    address: str
    port: int
    protocol: int


class _Found(NamedTuple):
    family: int
    id: bytes


def end_sockets(led: Map[SocketKey, SocketValue], places: Collection[BackendPlace]) -> int:
    """No socket of this thread's namespace that was led to one of these places is connected; returns how many were.

    `led`: which sockets were led where, as the programs remember. Raises: KernelError (EOPNOTSUPP: the kernel cannot end
    sockets, CONFIG_INET_DIAG_DESTROY is not set).
    """
    ended = 0
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG) as asked:
        for protocol in sorted({place.protocol for place in places}):
            by_peer = {(pack4(p.address), p.port): p for p in places if p.protocol == protocol}
            for found in list(_list(asked, protocol, {p.port for p in by_peer.values()})):
                _, port, _, raw = _ID.unpack_from(found.id)
                place = by_peer.get((raw[12:] if found.family == socket.AF_INET6 else raw[:4], port))
                if place is None or (found.family == socket.AF_INET6 and raw[:12] != _MAPPED):
                    continue
                (cookie,) = struct.unpack_from("<Q", found.id, _COOKIE_AT)
                if led.get(SocketKey(cookie, *place)) is not None:
                    ended += _end(asked, protocol, found)
    return ended


def _list(asked: socket.socket, protocol: int, ports: Collection[int]) -> Iterator[_Found]:
    """Connected sockets to these ports, and maybe others."""
    for port in sorted(ports) if len(ports) <= _FEW else (0,):
        for family in (socket.AF_INET, socket.AF_INET6):
            wanted = _ID.pack(0, port, bytes(16), bytes(16)) + bytes(_ID_BYTES - _ID.size)
            _send(asked, _BY_FAMILY, _F_DUMP, _REQUEST.pack(family, protocol, 0, 0, _CONNECTED) + wanted)
            for body in _answers(asked):
                yield _Found(family, body[_ID_AT : _ID_AT + _ID_BYTES])


def _end(asked: socket.socket, protocol: int, found: _Found) -> bool:
    """Whether it was there to be ended. Raises: KernelError."""
    _send(asked, _DESTROY, _F_ACK, _REQUEST.pack(found.family, protocol, 0, 0, _CONNECTED) + found.id)
    try:
        for _ in _answers(asked):
            pass
    except KernelError as exc:
        if exc.errno in _ENDED_MEANWHILE:
            return False
        raise
    return True


def _send(asked: socket.socket, kind: int, flags: int, body: bytes) -> None:
    try:
        asked.send(_HEADER.pack(_HEADER.size + len(body), kind, _F_REQUEST | flags, 1, 0) + body)
    except OSError as exc:
        raise KernelError("sock_diag", exc.errno or errno.EIO) from exc


def _answers(asked: socket.socket) -> Iterator[bytes]:
    """Bodies, until the end or the acknowledgement. Raises: KernelError."""
    while True:
        try:
            raw = asked.recv(_RECEIVE_BYTES)
        except OSError as exc:
            raise KernelError("sock_diag", exc.errno or errno.EIO) from exc
        at = 0
        while at < len(raw):
            length, kind, *_ = _HEADER.unpack_from(raw, at)
            body = raw[at + _HEADER.size : at + length]
            at += (length + 3) & ~3
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                (error,) = _ERROR.unpack_from(body)
                if error:
                    raise KernelError("sock_diag", -error)
                return
            yield body
