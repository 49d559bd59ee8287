# SPDX-License-Identifier: Apache-2.0
"""On which interface of the node a pod is: a veth that the node routes the pod's address alone over, or a port of a bridge.

A veth that a network is behind is no pod's: where nodes are containers, it is how the node reaches all others.
Nothing is asked of the pod, which need not answer or have spoken: the other end of a veth is looked at in its namespace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from agent.datapath.errors import KernelError
from agent.datapath.rtnetlink import Conversation, Link

_NO_MAC: Final = "00:00:00:00:00:00"


class EndpointInterface(NamedTuple):
    """The node-side end of a pod's veth; mac is the pod's (zero: not known), node_mac its gateway's on the node.

    `bridge` is the bridge that the interface is a port of, and whose MAC node_mac is; 0: the node routes over the veth itself.
    """

    ifindex: int
    mac: str
    node_mac: str
    bridge: int = 0


class LinkSighting(NamedTuple):
    """What was seen of a pod address. `is_there`: the interface it was last known on exists. `error`: nothing was seen.

    `bridge`: the route to the address leads to this bridge, 0: to none.
    """

    interface: EndpointInterface | None = None
    is_there: bool = False
    error: str = ""
    bridge: int = 0


class _Port(NamedTuple):
    """A port of a bridge, with the addresses at the other end of its veth; None: nobody lets us look."""

    link: Link
    addresses: tuple[str, ...] | None


def sight(asked: Sequence[tuple[str, int]]) -> list[LinkSighting]:
    """For each (pod address, number of the interface it was last known on, or 0) what the node says now.

    The ports of each bridge are looked at once, however many addresses are behind it.
    """
    with Conversation() as talk:
        finder = _Finder(talk)
        return [finder.sight(address, known) for address, known in asked]


class _Finder:
    """Looks for addresses with one conversation, and remembers bridges meanwhile."""

    def __init__(self, talk: Conversation) -> None:
        self._talk = talk
        self._ports: dict[int, list[_Port]] = {}

    def sight(self, address: str, known: int) -> LinkSighting:
        try:
            link = self._delivering(address)
            bridge = link.ifindex if link is not None and link.kind == "bridge" else 0
            interface = self._interface(link, address, known) if link is not None else None
            if interface is not None or not known:
                return LinkSighting(interface, bridge=bridge)
            there = self._talk.link(known)
            return LinkSighting(None, is_there=there is not None and there.kind == "veth", bridge=bridge)
        except (KernelError, OSError) as exc:
            return LinkSighting(error=str(exc))

    def _delivering(self, address: str) -> Link | None:
        route = self._talk.route(address)
        link = None if route is None else self._talk.link(route.ifindex)
        is_networks = link is not None and link.kind == "veth" and route is not None and not route.is_host
        return None if is_networks else link

    def _interface(self, link: Link, address: str, known: int) -> EndpointInterface | None:
        if link.kind == "veth":
            mac = self._mac_behind(link) or self._talk.neighbour(link.ifindex, address) or _NO_MAC
            return EndpointInterface(link.ifindex, mac, link.mac)
        if link.kind == "bridge":
            return self._behind(link, address, known)
        return None

    def _behind(self, bridge: Link, address: str, known: int) -> EndpointInterface | None:
        """The port whose other end has the address; the bridge's tables are believed only where no end says otherwise.

        When several have it: where it was known before, then where it is the interface's first.
        """
        ports = self._ports_of(bridge)
        having = [
            (port.link.ifindex != known, port.addresses.index(address), port.link)
            for port in ports
            if port.addresses and address in port.addresses
        ]
        if having:
            link = min(having)[2]
            return EndpointInterface(link.ifindex, self._mac_behind(link) or _NO_MAC, bridge.mac, bridge.ifindex)
        mac = self._talk.neighbour(bridge.ifindex, address)
        ifindex = self._talk.port_towards(bridge.ifindex, mac) if mac else 0
        if not any(port.link.ifindex == ifindex and not port.addresses for port in ports):
            return None
        return EndpointInterface(ifindex, mac, bridge.mac, bridge.ifindex)

    def _ports_of(self, bridge: Link) -> list[_Port]:
        found = self._ports.get(bridge.ifindex)
        if found is None:
            found = [_Port(link, self._addresses_behind(link)) for link in self._talk.ports(bridge.ifindex)]
            self._ports[bridge.ifindex] = found
        return found

    def _addresses_behind(self, link: Link) -> tuple[str, ...] | None:
        try:
            return tuple(self._talk.addresses(link.peer, link.netns_id)) if link.peer else None
        except KernelError:
            return None  # the pod's namespace belongs to somebody who does not let us look, or is about to end

    def _mac_behind(self, link: Link) -> str:
        try:
            other = self._talk.link(link.peer, link.netns_id) if link.peer else None
        except KernelError:
            return ""
        return other.mac if other is not None and other.kind == "veth" else ""
