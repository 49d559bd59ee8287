# SPDX-License-Identifier: Apache-2.0
"""The maps by name: record types and default sizes. Source: bpf/maps.h; compared with it by a test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar

from agent.datapath import affinity_layout, flow_layout, layout, nat_layout, socket_layout, source_range_layout
from agent.datapath.maps import MapRecord

K = TypeVar("K", bound=MapRecord)
V = TypeVar("V", bound=MapRecord)


@dataclass(frozen=True, slots=True)
class MapSpec(Generic[K, V]):
    """A map before it exists."""

    name: str
    key: type[K]
    value: type[V]
    key_size: int
    value_size: int
    max_entries: int
    is_prefix_map: bool = False
    is_per_cpu: bool = False
    is_array: bool = False
    encode: Callable[[K, V], bytes] = lambda _key, value: value.pack()

    def check_sizes(self, keys: Sequence[bytes], values: Sequence[bytes] = ()) -> None:
        """Raises: ValueError for records of another family: the kernel would read beyond them."""
        for records, size in ((keys, self.key_size), (values, self.value_size)):
            if any(len(record) != size for record in records):
                raise ValueError(f"{self.name} has records of {size} bytes")


SERVICES: Final = MapSpec("mesh_services", layout.ServiceKey, layout.ServiceValue, 12, 12, 1 << 19)
BACKENDS: Final = MapSpec("mesh_backends", layout.BackendKey, layout.BackendValue, 4, 12, 1 << 18)
MEMBERS: Final = MapSpec("mesh_members", layout.MemberKey, layout.MemberValue, 8, 4, 1 << 19)
SOURCE_RANGES: Final = MapSpec(
    "mesh_source_ranges",
    source_range_layout.SourceRangeKey,
    source_range_layout.SourceRangeValue,
    24,
    4,
    1 << 16,
    is_prefix_map=True,
)
SERVICES6: Final = MapSpec("mesh_services6", layout.ServiceKey, layout.ServiceValue, 24, 12, 1 << 17)
BACKENDS6: Final = MapSpec("mesh_backends6", layout.BackendKey, layout.BackendValue, 4, 24, 1 << 16)
MEMBERS6: Final = MapSpec("mesh_members6", layout.MemberKey, layout.MemberValue, 8, 4, 1 << 17)
SOURCE_RANGES6: Final[MapSpec[source_range_layout.SourceRangeKey, source_range_layout.SourceRangeValue]] = MapSpec(
    "mesh_ranges6",
    source_range_layout.SourceRangeKey6,
    source_range_layout.SourceRangeValue,
    24,
    4,
    1 << 16,
    is_prefix_map=True,
)
AFFINITY6: Final = MapSpec(
    "mesh_affinity6", affinity_layout.AffinityKey, affinity_layout.AffinityValue, 24, 16, 1 << 15
)
IPCACHE: Final = MapSpec("mesh_ipcache", layout.IpcacheKey, layout.IpcacheValue, 24, 24, 1 << 20, is_prefix_map=True)


def _encode_policy(key: layout.PolicyKey, value: layout.PolicyValue) -> bytes:
    """The value repeats how specific its key is: a lookup does not tell which prefix it hit."""
    raw = bytearray(value.pack())
    raw[layout.POLICY_L4_BITS_OFFSET] = key.l4_bits
    return bytes(raw)


POLICY: Final = MapSpec(
    "mesh_policy", layout.PolicyKey, layout.PolicyValue, 16, 12, 1 << 18, is_prefix_map=True, encode=_encode_policy
)
ENDPOINTS_BY_ADDRESS: Final = MapSpec("mesh_ep_address", layout.AddressKey, layout.EndpointValue, 16, 44, 1 << 12)
ENDPOINTS_BY_IFINDEX: Final = MapSpec("mesh_ep_ifindex", layout.IfindexKey, layout.EndpointValue, 4, 44, 1 << 12)
NODE: Final = MapSpec("mesh_node", layout.IfindexKey, layout.EndpointValue, 4, 44, 1, is_array=True)
CONNTRACK_TCP: Final = MapSpec("mesh_ct_tcp", flow_layout.ConntrackKey, flow_layout.ConntrackValue, 16, 56, 1 << 18)
CONNTRACK_OTHER: Final = MapSpec("mesh_ct_other", flow_layout.ConntrackKey, flow_layout.ConntrackValue, 16, 56, 1 << 17)
CONNTRACK_OPENING: Final = MapSpec(
    "mesh_ct_opening", flow_layout.ConntrackKey, flow_layout.ConntrackValue, 16, 56, 1 << 16
)
AFFINITY: Final = MapSpec("mesh_affinity", affinity_layout.AffinityKey, affinity_layout.AffinityValue, 16, 16, 1 << 16)
SOCKETS: Final = MapSpec("mesh_sockets", socket_layout.SocketKey, socket_layout.SocketValue, 32, 24, 1 << 16)
NAT: Final = MapSpec("mesh_nat", nat_layout.NatKey, nat_layout.NatValue, 40, 72, 1 << 17)
METRICS: Final = MapSpec("mesh_metrics", flow_layout.MetricKey, flow_layout.MetricValue, 4, 16, 512, is_per_cpu=True)
PROBES: Final = MapSpec("mesh_probes", flow_layout.ProbeKey, flow_layout.ProbeValue, 8, 24, 1 << 13)
HEARTBEAT: Final = MapSpec("mesh_heartbeat", flow_layout.HeartbeatKey, flow_layout.HeartbeatValue, 4, 8, 1)

CALLS_NAME: Final = "mesh_calls"
EVENTS_NAME: Final = "mesh_events"
LOST_NAME: Final = "mesh_lost"
ABI_NAME: Final = "mesh_abi"


class MapAbi(NamedTuple):
    """Where `mesh_abi` keeps a map's version, and the version of the records this program reads and writes.

    Raise the version with every change of what a record means: an upgrade then empties this map and no other. A place
    is never given to another map. The agent refills its own maps; what the kernel wrote is lost.
    """

    place: int
    version: int
    written_by_kernel: bool = False


ABI_SCHEME: Final = MapAbi(0, 1)  # an older agent knows this number only, for all maps together
ABIS: Final[Mapping[str, MapAbi]] = {
    "mesh_services": MapAbi(1, 1),
    "mesh_backends": MapAbi(2, 1),
    "mesh_members": MapAbi(3, 1),
    "mesh_affinity": MapAbi(4, 1, written_by_kernel=True),
    "mesh_ipcache": MapAbi(5, 1),
    "mesh_policy": MapAbi(6, 1),
    "mesh_ep_address": MapAbi(7, 1),
    "mesh_ep_ifindex": MapAbi(8, 1),
    "mesh_ct_tcp": MapAbi(9, 1, written_by_kernel=True),
    "mesh_ct_other": MapAbi(10, 1, written_by_kernel=True),
    "mesh_ct_opening": MapAbi(11, 1, written_by_kernel=True),
    "mesh_fragments": MapAbi(12, 1, written_by_kernel=True),
    "mesh_metrics": MapAbi(13, 1, written_by_kernel=True),
    "mesh_lost": MapAbi(14, 1, written_by_kernel=True),
    "mesh_event_rate": MapAbi(15, 1, written_by_kernel=True),
    "mesh_events": MapAbi(16, 2, written_by_kernel=True),
    "mesh_probes": MapAbi(17, 1, written_by_kernel=True),
    "mesh_heartbeat": MapAbi(18, 1),
    "mesh_node": MapAbi(19, 1),
    "mesh_sockets": MapAbi(20, 1, written_by_kernel=True),
    "mesh_nat": MapAbi(21, 2, written_by_kernel=True),
    "mesh_source_ranges": MapAbi(22, 1),
    "mesh_calls": MapAbi(
        23, 1, written_by_kernel=True
    ),  # or by who loads the programs: nothing else has to be filled for it
    "mesh_ct6_tcp": MapAbi(24, 1, written_by_kernel=True),
    "mesh_ct6_other": MapAbi(25, 1, written_by_kernel=True),
    "mesh_ct6_opening": MapAbi(26, 1, written_by_kernel=True),
    "mesh_fragments6": MapAbi(27, 1, written_by_kernel=True),
    "mesh_services6": MapAbi(28, 1),
    "mesh_backends6": MapAbi(29, 1),
    "mesh_members6": MapAbi(30, 1),
    "mesh_ranges6": MapAbi(31, 1),
    "mesh_affinity6": MapAbi(32, 1, written_by_kernel=True),
}
