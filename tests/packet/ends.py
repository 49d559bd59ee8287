# SPDX-License-Identifier: Apache-2.0
"""Who speaks in packet tests that hold for both families: the same pods, services and backends, by addresses of one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agent.datapath.layout import LOOPBACK_ADDRESS
from tests.packet import packet_node
from tests.packet.packet_bytes import ICMP, TCP, Packet
from tests.packet.packet_bytes6 import ICMPV6, Packet6

Backend = tuple[int, str, int]
"""Its id, address and port."""


@dataclass(frozen=True)
class Ends:
    """The addresses of one family. `network`: of the remote pod; `outsiders`: of the backend that is in no cluster."""

    pod: str
    neighbour: str
    remote_pod: str
    world: str
    vip: str
    other_vip: str
    loopback: str
    stranger: str
    network: str
    outside_address: str
    outsiders: str
    icmp: int
    port_unreachable: int
    is_ipv6: bool

    def __str__(self) -> str:
        return "ipv6" if self.is_ipv6 else "ipv4"

    @property
    def local(self) -> Backend:
        """A pod of this node."""
        return (1, self.neighbour, 8080)

    @property
    def remote(self) -> Backend:
        """A pod of a peer."""
        return (2, self.remote_pod, 9090)

    @property
    def outside(self) -> Backend:
        """Who is in no cluster."""
        return (3, self.outside_address, 7070)

    def backend(self, name: str) -> Backend:
        """By the name of its property."""
        return {"local": self.local, "remote": self.remote, "outside": self.outside}[name]

    def packet(self, source: str, destination: str, protocol: int = TCP, **facts: Any) -> Packet:
        """A packet of this family; `facts` as of Packet."""
        return (Packet6 if self.is_ipv6 else Packet)(source, destination, protocol, **facts)

    def whole(self, address: str) -> str:
        """The prefix that has this address only."""
        return f"{address}/{128 if self.is_ipv6 else 32}"


IPV4 = Ends(
    packet_node.POD,
    packet_node.NEIGHBOUR,
    packet_node.REMOTE_POD,
    packet_node.WORLD,
    packet_node.VIP,
    "172.20.1.8",
    LOOPBACK_ADDRESS,
    "10.2.1.99",
    "10.2.1.0/24",
    "198.51.100.7",
    "198.51.100.0/24",
    ICMP,
    3 << 8 | 3,
    is_ipv6=False,
)
IPV6 = Ends(
    packet_node.POD6,
    packet_node.NEIGHBOUR6,
    packet_node.REMOTE_POD6,
    packet_node.WORLD6,
    packet_node.VIP6,
    "fd00:20::8",
    "100::a9fe:2a01",
    "fd00:2::99",
    "fd00:2::/64",
    "2001:db8::7",
    "2001:db8::/64",
    ICMPV6,
    1 << 8 | 4,
    is_ipv6=True,
)
