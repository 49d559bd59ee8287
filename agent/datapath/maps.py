# SPDX-License-Identifier: Apache-2.0
"""The seam: what a map can do, and the maps of one node. `kernel` and `memory` implement it and pass the same tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self, TypeVar

from agent.datapath.affinity_layout import AffinityKey, AffinityValue
from agent.datapath.flow_layout import (
    ConntrackKey,
    ConntrackValue,
    HeartbeatKey,
    HeartbeatValue,
    MetricKey,
    MetricValue,
    ProbeKey,
    ProbeValue,
)
from agent.datapath.layout import (
    AddressKey,
    BackendKey,
    BackendValue,
    EndpointValue,
    IfindexKey,
    IpcacheKey,
    IpcacheValue,
    MemberKey,
    MemberValue,
    PolicyKey,
    PolicyValue,
    ServiceKey,
    ServiceValue,
)
from agent.datapath.nat_layout import NatKey, NatValue
from agent.datapath.socket_layout import SocketKey, SocketValue
from agent.datapath.source_range_layout import SourceRangeKey, SourceRangeValue

K = TypeVar("K")
V = TypeVar("V")


class MapRecord(Protocol):
    """A key or a value of a map."""

    def pack(self) -> bytes:
        """Encode as the kernel stores it."""
        ...

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of pack."""
        ...


class MapInfo(NamedTuple):
    """What a map is; `count` is the number of its entries now."""

    name: str
    max_entries: int
    count: int  # type: ignore[assignment]  # reads as the word operators use; tuple.count is not used here
    key_size: int
    value_size: int


class Map(Protocol[K, V]):
    """One map of the node.

    Writes happen in the order given, each record atomically. A write that raises MapError has applied its first
    `done` records and none after them.
    """

    def update(self, items: Sequence[tuple[K, V]]) -> None:
        """All items are in the map. Raises: MapFullError, MapError."""
        ...

    def update_packed(self, keys: bytes, values: bytes) -> None:
        """The same for records that are packed already, one after the other. Raises: MapFullError, MapError."""
        ...

    def delete(self, keys: Sequence[K]) -> None:
        """None of the keys is in the map; absent keys are fine. Raises: MapError."""
        ...

    def get(self, key: K) -> V | None:
        """The value a packet would find: of this very key, or of its longest prefix in a prefix map."""
        ...

    def items(self) -> Iterator[tuple[K, V]]:
        """All entries, in no order; entries changed meanwhile may be missing or seen twice."""
        ...

    def info(self) -> MapInfo:
        """Name, sizes and the number of entries; counting walks the whole map."""
        ...


class ServiceMaps(NamedTuple):
    """What the services of one family have: `affinity` is written by the kernel, the others by the agent."""

    services: Map[ServiceKey, ServiceValue]
    backends: Map[BackendKey, BackendValue]
    members: Map[MemberKey, MemberValue]
    source_ranges: Map[SourceRangeKey, SourceRangeValue]
    affinity: Map[AffinityKey, AffinityValue]


@dataclass(frozen=True, slots=True)
class Maps:
    """Every map of one node that user space reads or writes.

    Written by the agent: services, backends, members, source ranges, ipcache, policy, both endpoint maps (the same value in
    both), node, heartbeat.
    Written by the kernel: conntrack (established TCP, established others, all that are opening), affinity, sockets,
    nat, metrics, probes.
    Those that end in 6 are there where programs go on with packets of IPv6.
    Order when a service grows: backends, members, slots 1..n, source ranges, slot 0; when it shrinks the reverse.
    """

    services: Map[ServiceKey, ServiceValue]
    backends: Map[BackendKey, BackendValue]
    members: Map[MemberKey, MemberValue]
    source_ranges: Map[SourceRangeKey, SourceRangeValue]
    ipcache: Map[IpcacheKey, IpcacheValue]
    policy: Map[PolicyKey, PolicyValue]
    endpoints_by_address: Map[AddressKey, EndpointValue]
    endpoints_by_ifindex: Map[IfindexKey, EndpointValue]
    node: Map[IfindexKey, EndpointValue]
    conntrack_tcp: Map[ConntrackKey, ConntrackValue]
    conntrack_other: Map[ConntrackKey, ConntrackValue]
    conntrack_opening: Map[ConntrackKey, ConntrackValue]
    affinity: Map[AffinityKey, AffinityValue]
    sockets: Map[SocketKey, SocketValue]
    nat: Map[NatKey, NatValue]
    metrics: Map[MetricKey, MetricValue]
    probes: Map[ProbeKey, ProbeValue]
    heartbeat: Map[HeartbeatKey, HeartbeatValue]
    services6: Map[ServiceKey, ServiceValue] | None = None
    backends6: Map[BackendKey, BackendValue] | None = None
    members6: Map[MemberKey, MemberValue] | None = None
    source_ranges6: Map[SourceRangeKey, SourceRangeValue] | None = None
    affinity6: Map[AffinityKey, AffinityValue] | None = None

    @property
    def of_ipv4(self) -> ServiceMaps:
        """The maps of services of IPv4."""
        return ServiceMaps(self.services, self.backends, self.members, self.source_ranges, self.affinity)

    @property
    def of_ipv6(self) -> ServiceMaps | None:
        """The same of IPv6; None where nobody goes on with packets of IPv6."""
        maps = (self.services6, self.backends6, self.members6, self.source_ranges6, self.affinity6)
        return None if None in maps else ServiceMaps(*maps)  # type: ignore[arg-type]
