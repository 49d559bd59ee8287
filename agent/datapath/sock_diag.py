# SPDX-License-Identifier: Apache-2.0
"""The kernel's list of sockets, and how one of them is ended: its process gets ECONNABORTED at once.

All of it is about the thread's network namespace. Source: linux/{sock_diag,inet_diag}.h.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from agent.datapath.errors import KernelError

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
_ENDED_MEANWHILE: Final = frozenset({errno.ENOENT, errno.ESTALE})
_BYTECODE: Final = 1  # the attribute of a request
_MARK_IS: Final = struct.Struct("<HHBBHII")  # the attribute's length and type; one instruction: op, yes, no, mark, mask
_MARK_COND, _MARK_COND_BYTES = 10, 12


class FoundSocket(NamedTuple):
    """A connected socket; `id` is how the kernel calls it."""

    family: int
    id: bytes

    @property
    def near(self) -> bytes:
        """Its own address: 4 bytes, or 16 of IPv6."""
        return self._address(2)

    @property
    def far(self) -> bytes:
        """The address of its peer, as `near`."""
        return self._address(3)

    @property
    def far_port(self) -> int:
        """The port of its peer."""
        port: int = _ID.unpack_from(self.id)[1]
        return port

    @property
    def cookie(self) -> int:
        """No other socket since the machine started has it."""
        found: int = struct.unpack_from("<Q", self.id, _COOKIE_AT)[0]
        return found

    def _address(self, index: int) -> bytes:
        raw: bytes = _ID.unpack_from(self.id)[index]
        return raw if self.family == socket.AF_INET6 else raw[:4]


@contextlib.contextmanager
def asking_for_sockets() -> Iterator[socket.socket]:
    """What the functions below ask with."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG) as asked:
        yield asked


def connected_sockets(asked: socket.socket, family: int, protocol: int, far_port: int = 0) -> Iterator[FoundSocket]:
    """Those to this port (0: to any). Raises: KernelError."""
    yield from _dump(asked, family, protocol, far_port, b"")


def marked_sockets(asked: socket.socket, protocol: int, mark: int, mask: int) -> Iterator[FoundSocket]:
    """Connected ones of IPv4 whose SO_MARK is `mark` in the bits of `mask`. Raises: KernelError."""
    beyond = _MARK_COND_BYTES + 4
    only = _MARK_IS.pack(4 + _MARK_COND_BYTES, _BYTECODE, _MARK_COND, _MARK_COND_BYTES, beyond, mark, mask)
    yield from _dump(asked, socket.AF_INET, protocol, 0, only)


def end_socket(asked: socket.socket, protocol: int, found: FoundSocket) -> bool:
    """Whether it was there to be ended. Raises: KernelError (EOPNOTSUPP: CONFIG_INET_DIAG_DESTROY is not set)."""
    _send(asked, _DESTROY, _F_ACK, _REQUEST.pack(found.family, protocol, 0, 0, _CONNECTED) + found.id)
    try:
        for _ in _answers(asked):
            pass
    except KernelError as exc:
        if exc.errno in _ENDED_MEANWHILE:
            return False
        raise
    return True


def _dump(asked: socket.socket, family: int, protocol: int, far_port: int, only: bytes) -> Iterator[FoundSocket]:
    wanted = _ID.pack(0, far_port, bytes(16), bytes(16)) + bytes(_ID_BYTES - _ID.size)
    _send(asked, _BY_FAMILY, _F_DUMP, _REQUEST.pack(family, protocol, 0, 0, _CONNECTED) + wanted + only)
    for body in _answers(asked):
        yield FoundSocket(family, body[_ID_AT : _ID_AT + _ID_BYTES])


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
