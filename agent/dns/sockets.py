# SPDX-License-Identifier: Apache-2.0
"""The sockets of the DNS proxy: they take what programs hand over, and send in the name of either end.

All need CAP_NET_ADMIN; `answering_socket` CAP_NET_RAW. Raise: OSError.
"""

from __future__ import annotations

import array
import contextlib
import socket
import struct
import sys
import time
from functools import lru_cache
from typing import Final

from agent.datapath.proxy_marks import PROXY_ADDRESS, ProxyMark

Place = tuple[str, int]
"""Address and port."""
_IP_TRANSPARENT: Final = 19
_IP_RECVORIGDSTADDR: Final = 20
_IP_BIND_ADDRESS_NO_PORT: Final = 24
_SO_RCVBUFFORCE: Final = 33
_BUFFER_BYTES: Final = 1 << 20
_ORIGINAL: Final = struct.Struct("=H2s4s8x")
_HEADERS: Final = 28
_TTL: Final = 64
_REMEMBERED_S: Final = 5.0
_DONT_FRAGMENT: Final = 0x4000


def listening_datagrams(port: int) -> socket.socket:
    """Takes the queries that policies hand to the port; `receive` reads them."""
    made = _transparent(socket.SOCK_DGRAM, ProxyMark.EGRESS_REPLY)
    made.setsockopt(socket.SOL_IP, _IP_RECVORIGDSTADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    return _bound(made, PROXY_ADDRESS, port)


def listening_streams(port: int) -> socket.socket:
    """Accepts the connections that policies hand to the port; their local address is the server's."""
    made = _transparent(socket.SOCK_STREAM, ProxyMark.EGRESS_REPLY)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _bound(made, PROXY_ADDRESS, port).listen(256)
    return made


def asking_datagrams(client: str, port: int, server: Place) -> socket.socket:
    """Asks the server from this address and port of the client, and hears nobody else.

    A server of the node itself is asked by the node: its answers to somebody else would leave the node's stack, which takes
    nothing back that comes from an address of its own.
    """
    if is_of_node(server[0]):
        made = _bound(socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK), "", port)
    else:
        made = _bound(_transparent(socket.SOCK_DGRAM, ProxyMark.EGRESS_UPSTREAM), client, port)
    try:
        made.connect(server)
    except OSError:
        made.close()
        raise
    return made


def asking_stream(client: str, server: str) -> socket.socket:
    """Not connected yet; the kernel chooses the port. A server of the node itself is asked by the node."""
    if is_of_node(server):
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    made = _transparent(socket.SOCK_STREAM, ProxyMark.EGRESS_UPSTREAM)
    made.setsockopt(socket.SOL_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
    return _bound(made, client, 0)


def is_of_node(address: str) -> bool:
    """Whether it is an address of this node, as of some seconds ago."""
    return _is_of_node(address, int(time.monotonic() / _REMEMBERED_S))


@lru_cache(maxsize=256)
def _is_of_node(address: str, _when: int) -> bool:
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as asking:
        try:  # the way to an address of one's own begins there
            asking.connect((address, 1))
        except OSError:
            return False
        return bool(asking.getsockname()[0] == address)


def answering_socket() -> socket.socket:
    """Sends what `answer_datagram` makes. A socket at the server's address would take what is for a server of the node."""
    made = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, ProxyMark.EGRESS_REPLY)
    made.setblocking(False)
    return made


def receive(listener: socket.socket, most: int) -> tuple[bytes, Place, Place] | None:
    """A datagram, who sent it and to whom; None if there is none, or nothing says to whom."""
    try:
        data, ancillary, _, client = listener.recvmsg(most, socket.CMSG_SPACE(16))
    except BlockingIOError:
        return None
    for level, kind, value in ancillary:
        if level == socket.SOL_IP and kind == _IP_RECVORIGDSTADDR:
            _, port, address = _ORIGINAL.unpack(value)
            return data, (client[0], client[1]), (socket.inet_ntoa(address), int.from_bytes(port, "big"))
    return None


def answer_datagram(server: Place, client: Place, data: bytes) -> bytes:
    """A packet of UDP from the server to the client."""
    ends = socket.inet_aton(server[0]) + socket.inet_aton(client[0])
    length = len(data) + 8
    udp = struct.pack("!HHHH", server[1], client[1], length, 0)
    checksum = _checksum(ends + struct.pack("!HH", socket.IPPROTO_UDP, length) + udp + data) or 0xFFFF
    head = struct.pack(
        "!BBHHHBBH", 0x45, 0, len(data) + _HEADERS, 0, _DONT_FRAGMENT, _TTL, socket.IPPROTO_UDP, 0
    )  # the kernel fills in the checksum
    return head + ends + udp[:6] + struct.pack("!H", checksum) + data


def _checksum(data: bytes) -> int:
    """Source: RFC 1071."""
    words = array.array("H", data + b"\0" * (len(data) % 2))
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    total = ~total & 0xFFFF
    return total if sys.byteorder == "big" else (total & 0xFF) << 8 | total >> 8


def _transparent(kind: int, mark: ProxyMark) -> socket.socket:
    made = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK)
    try:
        made.setsockopt(socket.SOL_IP, _IP_TRANSPARENT, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    except OSError:
        made.close()
        raise
    return made


def _bound(made: socket.socket, address: str, port: int) -> socket.socket:
    try:
        made.bind((address, port))
    except OSError:
        made.close()
        raise
    return made
