# SPDX-License-Identifier: Apache-2.0
"""The few rtnetlink questions that are asked often, spoken directly: an answer costs some ten microseconds.

`netlink` speaks the rest through pyroute2, at a millisecond a question. Source: linux/{netlink,rtnetlink,if_link,neighbour}.h.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import Final, NamedTuple, Self

from agent.datapath.errors import KernelError

_HEADER: Final = struct.Struct("<IHHII")
_LINK: Final = struct.Struct("<BxHiII")
_ROUTE: Final = struct.Struct("<BBBBBBBBI")
_NEIGHBOUR: Final = struct.Struct("<BxxxiHBB")
_ATTRIBUTE: Final = struct.Struct("<HH")
_U32: Final = struct.Struct("<I")
_ERROR: Final = struct.Struct("<i")

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_GETNEIGHBOUR: Final = 30
_REQUEST: Final = 1
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_LINKINFO = 1, 3, 4, 5, 18
_IFLA_LINK_NETNSID, _IFLA_TARGET_NETNSID, _INFO_KIND = 37, 46, 1
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_NDA_DST, _NDA_LLADDR = 1, 2
_UNICAST: Final = 1
_TYPE_BITS: Final = 0x3FFF
_GROUPS: Final = 0x1 | 0x40  # links, IPv4 routes
_RECEIVE_BYTES: Final = 1 << 16
_BUFFER_BYTES: Final = 1 << 20
_GATHER_S: Final = 0.002
_NO_MAC: Final = "00:00:00:00:00:00"
_UNREACHABLE: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL})


class EndpointInterface(NamedTuple):
    """The node-side end of a pod's veth; mac is the pod's (zero: not known), node_mac the node's."""

    ifindex: int
    mac: str
    node_mac: str


class Link(NamedTuple):
    """An interface; `peer` and `netns_id` say where the other end of a veth is (netns_id None: here)."""

    ifindex: int
    name: str
    kind: str
    mac: str
    mtu: int
    peer: int
    netns_id: int | None


class LinkSighting(NamedTuple):
    """What was seen of a pod address. `is_there`: the interface it was last known on exists. `error`: nothing was seen."""

    interface: EndpointInterface | None = None
    is_there: bool = False
    error: str = ""


class LinkChanges(NamedTuple):
    """What changed in the namespace: interfaces by number, and IPv4 routes by destination ("10.1.0.5/32").

    `gone` are the interfaces that ceased to exist, also when the number is in use again by now. `is_all`: changes were
    lost, so everything may differ.
    """

    links: frozenset[int] = frozenset()
    gone: frozenset[int] = frozenset()
    routes: frozenset[str] = frozenset()
    is_all: bool = False


class Conversation:
    """One socket in the namespace of the thread that makes it; answers come at once, so nothing waits."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
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

    def endpoint(self, address: str) -> EndpointInterface | None:
        """Where the node delivers this pod address: the veth its route leads to without a gateway, None if there is none.

        Works with any CNI plugin that routes each pod over a host-side veth. The pod's MAC is asked of the other end of
        the veth, else of the neighbour table: a pod need not answer anything. Raises: KernelError.
        """
        destination = socket.inet_aton(address)
        request = _ROUTE.pack(socket.AF_INET, 32, 0, 0, 0, 0, 0, 0, 0) + _attribute(_RTA_DST, destination)
        try:
            body = self._ask(_GETROUTE, request)
        except KernelError as exc:
            if exc.errno in _UNREACHABLE:
                return None
            raise
        found = _attributes(body[_ROUTE.size :])
        if _ROUTE.unpack_from(body)[7] != _UNICAST or _RTA_OIF not in found or _RTA_GATEWAY in found:
            return None
        link = self.link(_U32.unpack(found[_RTA_OIF])[0])
        if link is None or link.kind != "veth":
            return None
        return EndpointInterface(link.ifindex, self._pod_mac(link, destination), link.mac)

    def _pod_mac(self, link: Link, destination: bytes) -> str:
        if link.peer:
            try:
                other = self.link(link.peer, link.netns_id)
            except KernelError:
                other = None  # the pod's namespace belongs to somebody who does not let us look
            if other is not None and other.kind == "veth" and other.mac:
                return other.mac
        request = _NEIGHBOUR.pack(socket.AF_INET, link.ifindex, 0, 0, 0) + _attribute(_NDA_DST, destination)
        try:
            found = _attributes(self._ask(_GETNEIGHBOUR, request)[_NEIGHBOUR.size :])
        except KernelError:
            return _NO_MAC
        return _mac(found.get(_NDA_LLADDR, b"")) or _NO_MAC

    def _ask(self, kind: int, body: bytes) -> bytes:
        """The body of the one message that answers. Raises: KernelError."""
        self._sequence += 1
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST, self._sequence, 0) + body)
        while True:
            for found, sequence, answer in _messages(self._socket.recv(_RECEIVE_BYTES)):
                if sequence != self._sequence:
                    continue
                if found == _NLMSG_ERROR:
                    raise KernelError("ask rtnetlink", -_ERROR.unpack_from(answer)[0] or errno.EIO)
                return answer


def sight(asked: Sequence[tuple[str, int]]) -> list[LinkSighting]:
    """For each (pod address, number of the interface it was last known on, or 0) what the node's routes say now."""
    with Conversation() as talk:
        return [_sight_one(talk, address, known) for address, known in asked]


def _sight_one(talk: Conversation, address: str, known: int) -> LinkSighting:
    try:
        interface = talk.endpoint(address)
        if interface is not None or not known:
            return LinkSighting(interface)
        link = talk.link(known)
        return LinkSighting(None, is_there=link is not None and link.kind == "veth")
    except (KernelError, OSError) as exc:
        return LinkSighting(error=str(exc))


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
        routes: set[str] = set()
        is_all = False
        while True:
            try:
                raw = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return LinkChanges(frozenset(links), frozenset(gone), frozenset(routes), is_all)
            except OSError as exc:
                if exc.errno != errno.ENOBUFS:
                    raise KernelError("hear of changes", exc.errno or errno.EIO) from exc
                is_all = True
                continue
            for kind, _, body in _messages(raw):
                if kind in (_NEWLINK, _DELLINK):
                    (links if kind == _NEWLINK else gone).add(_LINK.unpack_from(body)[2])
                elif kind in (_NEWROUTE, _DELROUTE):
                    destination = _attributes(body[_ROUTE.size :]).get(_RTA_DST, bytes(4))
                    routes.add(f"{socket.inet_ntoa(destination)}/{_ROUTE.unpack_from(body)[1]}")

    async def batches(self) -> AsyncIterator[LinkChanges]:
        """LinkChanges as they come until cancelled, which closes the socket; those of a few milliseconds are one batch."""
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._socket, ready.set)
        try:
            while True:
                await ready.wait()
                await asyncio.sleep(_GATHER_S)
                ready.clear()
                yield self.drain()
        finally:
            loop.remove_reader(self._socket)
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
