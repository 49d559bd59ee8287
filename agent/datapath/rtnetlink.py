# SPDX-License-Identifier: Apache-2.0
"""The few rtnetlink questions that are asked often, spoken directly: an answer costs some ten microseconds.

`netlink` speaks the rest through pyroute2, at a millisecond a question. Source: linux/{netlink,rtnetlink,if_link,neighbour}.h.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Final, NamedTuple, Self

from agent.datapath.errors import KernelError
from meshkit.descriptors import readable

_HEADER: Final = struct.Struct("<IHHII")
_LINK: Final = struct.Struct("<BxHiII")
_ROUTE: Final = struct.Struct("<BBBBBBBBI")
_ADDRESS: Final = struct.Struct("<BBBBI")
_NEIGHBOUR: Final = struct.Struct("<BxxxiHBB")
_ATTRIBUTE: Final = struct.Struct("<HH")
_U32: Final = struct.Struct("<I")
_ERROR: Final = struct.Struct("<i")

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_GETADDRESS: Final = 22
_GETNEIGHBOUR: Final = 30
_REQUEST, _DUMP = 1, 0x300
_SOL_NETLINK, _GET_STRICT_CHECK = 270, 12
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 4, 5, 10, 18
_IFLA_EXTENSIONS, _IFLA_LINK_NETNSID, _IFLA_TARGET_NETNSID, _INFO_KIND = 29, 37, 46, 1
_WITHOUT_STATISTICS: Final = 1 << 3
_IFA_LOCAL, _IFA_TARGET_NETNSID = 2, 10
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_VIA = 1, 4, 5, 18
_FIB_MATCH: Final = 0x2000
_HOST_BITS: Final = 32
_NDA_DST, _NDA_LLADDR, _NDA_MASTER = 1, 2, 9
_FAMILY_BRIDGE: Final = 7
_UNICAST: Final = 1
_TYPE_BITS: Final = 0x3FFF
_GROUPS: Final = 0x1 | 0x40  # links, IPv4 routes
_RECEIVE_BYTES: Final = 1 << 16
_BUFFER_BYTES: Final = 1 << 20
_GATHER_S: Final = 0.002
_UNREACHABLE: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL})


class Link(NamedTuple):
    """An interface; `peer` and `netns_id` say where the other end of a veth is (netns_id None: here)."""

    ifindex: int
    name: str
    kind: str
    mac: str
    mtu: int
    peer: int
    netns_id: int | None


class Delivery(NamedTuple):
    """The interface of a route without a gateway; `is_host`: the route is for one address, not for a network."""

    ifindex: int
    is_host: bool


class LinkChanges(NamedTuple):
    """What changed in the namespace: interfaces by number, and IPv4 routes by destination ("10.1.0.5/32").

    `gone` are the interfaces that ceased to exist, also when the number is in use again by now; `bridges` are those that a
    changed interface is, or was, a port of. `is_all`: changes were lost, so everything may differ.
    """

    links: frozenset[int] = frozenset()
    gone: frozenset[int] = frozenset()
    bridges: frozenset[int] = frozenset()
    routes: frozenset[str] = frozenset()
    is_all: bool = False


class Conversation:
    """One socket in the namespace of the thread that makes it; answers come at once, so nothing waits."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.setsockopt(_SOL_NETLINK, _GET_STRICT_CHECK, 1)  # lists are filtered by the kernel
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def link(self, ifindex: int, netns_id: int | None = None) -> Link | None:
        """The interface of that number, here or in another namespace; None if there is none. Raises: KernelError."""
        target = b"" if netns_id is None else _attribute(_IFLA_TARGET_NETNSID, _ERROR.pack(netns_id))
        try:
            body = self._ask(_GETLINK, _LINK.pack(socket.AF_UNSPEC, 0, ifindex, 0, 0) + target)
        except KernelError as exc:
            if exc.errno == errno.ENODEV:
                return None
            raise
        return _decode_link(body)

    def ports(self, bridge: int) -> list[Link]:
        """The veth interfaces that are ports of the bridge, by number. Raises: KernelError."""
        wanted = _attribute(_IFLA_MASTER, _U32.pack(bridge)) + _attribute(
            _IFLA_EXTENSIONS, _U32.pack(_WITHOUT_STATISTICS)
        )
        found = map(_decode_link, self._list(_GETLINK, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + wanted))
        return sorted(link for link in found if link.kind == "veth")

    def addresses(self, ifindex: int, netns_id: int | None = None) -> list[str]:
        """IPv4 addresses of an interface, here or in another namespace; the first is its oldest. Raises: KernelError."""
        target = b"" if netns_id is None else _attribute(_IFA_TARGET_NETNSID, _ERROR.pack(netns_id))
        request = _ADDRESS.pack(socket.AF_INET, 0, 0, 0, ifindex) + target
        found = (_attributes(body[_ADDRESS.size :]) for body in self._list(_GETADDRESS, request))
        return [socket.inet_ntoa(entry[_IFA_LOCAL]) for entry in found if _IFA_LOCAL in entry]

    def route(self, address: str) -> Delivery | None:
        """How the node delivers to the address without a gateway; None if it does not. Raises: KernelError."""
        head = _ROUTE.pack(socket.AF_INET, _HOST_BITS, 0, 0, 0, 0, 0, 0, _FIB_MATCH)
        request = head + _attribute(_RTA_DST, socket.inet_aton(address))
        try:
            body = self._ask(_GETROUTE, request)
        except KernelError as exc:
            if exc.errno in _UNREACHABLE:
                return None
            raise
        found = _attributes(body[_ROUTE.size :])
        route = _ROUTE.unpack_from(body)
        if route[7] != _UNICAST or _RTA_OIF not in found or {_RTA_GATEWAY, _RTA_VIA} & found.keys():
            return None
        return Delivery(_U32.unpack(found[_RTA_OIF])[0], route[1] == _HOST_BITS)

    def neighbour(self, ifindex: int, address: str) -> str:
        """The MAC that the neighbour table has for the address, "" if it has none."""
        request = _NEIGHBOUR.pack(socket.AF_INET, ifindex, 0, 0, 0) + _attribute(_NDA_DST, socket.inet_aton(address))
        try:
            return _mac(_attributes(self._ask(_GETNEIGHBOUR, request)[_NEIGHBOUR.size :]).get(_NDA_LLADDR, b""))
        except KernelError:
            return ""

    def port_towards(self, bridge: int, mac: str) -> int:
        """The port behind which the bridge learned the MAC, 0 if it did not."""
        told = _attribute(_NDA_LLADDR, bytes.fromhex(mac.replace(":", ""))) + _attribute(_NDA_MASTER, _U32.pack(bridge))
        try:
            body = self._ask(_GETNEIGHBOUR, _NEIGHBOUR.pack(_FAMILY_BRIDGE, 0, 0, 0, 0) + told)
        except KernelError:
            return 0
        return int(_NEIGHBOUR.unpack_from(body)[1])

    def _ask(self, kind: int, body: bytes) -> bytes:
        """The body of the one message that answers. Raises: KernelError."""
        self._send(kind, _REQUEST, body)
        while True:
            for found, sequence, answer in _messages(self._socket.recv(_RECEIVE_BYTES)):
                if sequence != self._sequence:
                    continue
                if found == _NLMSG_ERROR:
                    raise KernelError("ask rtnetlink", -_ERROR.unpack_from(answer)[0] or errno.EIO)
                return answer

    def _list(self, kind: int, body: bytes) -> list[bytes]:
        """The bodies of all that answers. What changes meanwhile may be missing; it is heard of. Raises: KernelError."""
        self._send(kind, _REQUEST | _DUMP, body)
        answers: list[bytes] = []
        while True:
            for found, sequence, answer in _messages(self._socket.recv(_RECEIVE_BYTES)):
                if sequence != self._sequence:
                    continue
                if found in (_NLMSG_ERROR, _NLMSG_DONE):
                    failure = -_ERROR.unpack_from(answer)[0]
                    if failure:
                        raise KernelError("list by rtnetlink", failure)
                    return answers
                answers.append(answer)

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0) + body)


class ChangeSocket:
    """Hears of every change of links and IPv4 routes in the namespace of the thread that makes it."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        self._socket.bind((0, _GROUPS))

    def fileno(self) -> int:
        """Readable when there are changes."""
        return self._socket.fileno()

    def drain(self) -> LinkChanges:
        """Every change so far that was not returned before; never blocks."""
        links: set[int] = set()
        gone: set[int] = set()
        bridges: set[int] = set()
        routes: set[str] = set()
        is_all = False
        while True:
            try:
                raw = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return LinkChanges(frozenset(links), frozenset(gone), frozenset(bridges), frozenset(routes), is_all)
            except OSError as exc:
                if exc.errno != errno.ENOBUFS:
                    raise KernelError("hear of changes", exc.errno or errno.EIO) from exc
                is_all = True
                continue
            for kind, _, body in _messages(raw):
                if kind in (_NEWLINK, _DELLINK):
                    master = _number(_attributes(body[_LINK.size :]).get(_IFLA_MASTER))
                    bridges.update((master,) if master else ())
                    (links if kind == _NEWLINK else gone).add(_LINK.unpack_from(body)[2])
                elif kind in (_NEWROUTE, _DELROUTE):
                    destination = _attributes(body[_ROUTE.size :]).get(_RTA_DST, bytes(4))
                    routes.add(f"{socket.inet_ntoa(destination)}/{_ROUTE.unpack_from(body)[1]}")

    async def batches(self) -> AsyncIterator[LinkChanges]:
        """LinkChanges as they come until cancelled, which closes the socket; those of a few milliseconds are one batch."""
        try:
            while True:
                await readable(self._socket)
                await asyncio.sleep(_GATHER_S)
                yield self.drain()
        finally:
            self.close()

    def close(self) -> None:
        self._socket.close()


def _messages(raw: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(type, sequence, body) of each message in a datagram."""
    position = 0
    while position + _HEADER.size <= len(raw):
        length, kind, _, sequence, _ = _HEADER.unpack_from(raw, position)
        if length < _HEADER.size:
            return
        yield kind, sequence, raw[position + _HEADER.size : position + length]
        position += (length + 3) & ~3


def _attributes(raw: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    position = 0
    while position + _ATTRIBUTE.size <= len(raw):
        length, kind = _ATTRIBUTE.unpack_from(raw, position)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _TYPE_BITS] = raw[position + _ATTRIBUTE.size : position + length]
        position += (length + 3) & ~3
    return found


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _decode_link(body: bytes) -> Link:
    found = _attributes(body[_LINK.size :])
    kind = _attributes(found.get(_IFLA_LINKINFO, b"")).get(_INFO_KIND, b"")
    netns_id = found.get(_IFLA_LINK_NETNSID)
    return Link(
        ifindex=_LINK.unpack_from(body)[2],
        name=found.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(),
        kind=kind.rstrip(b"\0").decode(),
        mac=_mac(found.get(_IFLA_ADDRESS, b"")),
        mtu=_number(found.get(_IFLA_MTU)),
        peer=_number(found.get(_IFLA_LINK)),
        netns_id=None if netns_id is None else _ERROR.unpack(netns_id)[0],
    )


def _number(raw: bytes | None) -> int:
    return 0 if raw is None else int(_U32.unpack(raw)[0])


def _mac(raw: bytes) -> str:
    return raw.hex(":") if len(raw) == 6 else ""
