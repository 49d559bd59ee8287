# SPDX-License-Identifier: Apache-2.0
"""A loaded datapath whose only pod interface is lo, and one packet at a time through its programs."""

from __future__ import annotations

import dataclasses
import errno
import struct
from pathlib import Path
from typing import Any, NamedTuple

from agent.datapath import layout, syscall
from agent.datapath.config import Aggregation, NodeConfig
from agent.datapath.events import EventRing
from agent.datapath.flow_layout import DatapathEvent, EventType, MetricKey
from agent.datapath.kernel import RawMap
from agent.datapath.libbpf import BpfObject
from agent.datapath.loader import Datapath
from agent.datapath.maps import Maps, ServiceMaps
from agent.datapath.reasons import Reason
from tests.packet.packet_bytes import NODE_MAC, Packet, read
from tests.packet.packet_bytes6 import read6

NODE, REMOTE_NODE, STRANGER = "192.168.50.11", "192.168.50.21", "192.168.50.99"
POD, NEIGHBOUR, REMOTE_POD, WORLD = "10.1.1.10", "10.1.1.11", "10.2.1.10", "93.184.216.34"
POD_ID, NEIGHBOUR_ID, REMOTE_ID = (1 << 16) + 1000, (1 << 16) + 1001, (2 << 16) + 5
ENDPOINT_ID, NEIGHBOUR_ENDPOINT_ID = 10, 11
VIP, VIP6 = "172.20.1.7", "fd00:20::7"
UNATTENDED_AFTER_S = 20
SHOT, REDIRECT, PASS = 2, 7, 0xFFFFFFFF
_POD_IFINDEX, _NEIGHBOUR_IFINDEX = 1, 77
NODE6, REMOTE_NODE6 = "fd00:50::11", "fd00:50::21"
POD6, NEIGHBOUR6, REMOTE_POD6, WORLD6 = "fd00:1::10", "fd00:1::11", "fd00:2::10", "2001:db8:93::34"
IPV6_MAPS = ("mesh_ct6_tcp", "mesh_ct6_other", "mesh_ct6_opening", "mesh_fragments6")
_IPV6_OF = {POD: POD6, NEIGHBOUR: NEIGHBOUR6}


class Outcome(NamedTuple):
    """What became of one packet."""

    verdict: int
    packet: Packet
    events: list[DatapathEvent]

    @property
    def drop(self) -> Reason:
        """Why it was dropped; fails if it was not, or not with exactly one event."""
        assert self.verdict == SHOT, self
        (event,) = [e for e in self.events if e.type == EventType.DROP]
        return Reason(event.reason)

    @property
    def answered(self) -> Reason:
        """Why it was dropped and its sender told; fails unless the packet became an answer, with exactly one event."""
        assert self.verdict == REDIRECT, self
        (event,) = [e for e in self.events if e.type == EventType.DROP]
        return Reason(event.reason)

    def event(self, kind: EventType) -> DatapathEvent:
        """The only event of that kind."""
        (event,) = [e for e in self.events if e.type == kind]
        return event


def cluster_of(address: str) -> int:
    """Pods of cluster N have addresses in 10.N.0.0/16 and fd00:N::/32."""
    return int(address.split(":")[1], 16) & 0xFF if ":" in address else int(address.split(".")[1])


class PacketNode:
    """One node; `maps` are its kernel maps."""

    def __init__(
        self,
        pins: Path,
        overlay_entry: Path,
        aggregation: Aggregation = Aggregation.MEDIUM,
        overlay_entry6: Path | None = None,
    ) -> None:
        """`overlay_entry6`: the node goes on with IPv6, and its pods have addresses of it."""
        sizes = {"mesh_ct_tcp": 4096, "mesh_ct_other": 4096, "mesh_ct_opening": 4096, "mesh_policy": 1024}
        self._pins = pins
        config = NodeConfig(NODE, 1, pins, mtu=1450, max_entries=sizes, unattended_after_s=UNATTENDED_AFTER_S)
        config = dataclasses.replace(config, underlay_device="lo", leads_outsiders=True, aggregation=aggregation)
        self.ipv6 = overlay_entry6 is not None
        config = dataclasses.replace(config, ipv6=self.ipv6)
        self.datapath = Datapath(config)
        self.maps: Maps = self.datapath.open()
        self.ring: EventRing = self.datapath.event_ring()
        self._entries = [self._load(path, sizes) for path in (overlay_entry, overlay_entry6) if path is not None]
        if config.ipv6:
            self.datapath.attach_node()
        self._ipv6_maps = [RawMap(syscall.get_pinned(pins / "maps" / name)) for name in IPV6_MAPS if config.ipv6]
        self._fragments = RawMap(syscall.get_pinned(pins / "maps" / "mesh_fragments"))
        self.nat = RawMap(syscall.get_pinned(pins / "maps" / "mesh_nat"))

    def _load(self, entry: Path, sizes: dict[str, int]) -> BpfObject:
        loaded = BpfObject(entry, self._pins / "maps")
        loaded.set_constants(self.datapath.constants)
        for name, size in sizes.items():
            if name in loaded.map_names():
                loaded.set_max_entries(name, size)
        loaded.load()
        return loaded

    def close(self) -> None:
        """Everything of it is gone."""
        self.ring.close()
        self._fragments.close()
        self.nat.close()
        for raw in self._ipv6_maps:
            raw.close()
        for entry in self._entries:
            entry.close()
        self.datapath.uninstall()

    def reset(self) -> None:
        """Two pods that enforce nothing, one remote pod behind its node; no flows, no events."""
        for field in dataclasses.fields(self.maps):
            one: Any = getattr(self.maps, field.name)
            if one is None:
                continue
            one.delete([key for key, _ in one.items()])
        for raw in (self._fragments, self.nat, *self._ipv6_maps):
            keys = [key for key, _ in raw.entries()]
            assert not keys or raw.delete(keys)[0] in (0, errno.ENOENT)
        self.endpoint()
        self.endpoint(address=NEIGHBOUR)
        self.ipcache(f"{REMOTE_POD}/32", REMOTE_ID, REMOTE_NODE, 2)
        self.ipcache(f"{REMOTE_NODE}/32", 6, cluster_id=2)
        self.ipcache(f"{NODE}/32", 1, cluster_id=1)
        if self._ipv6_maps:
            self.ipcache(f"{REMOTE_POD6}/128", REMOTE_ID, REMOTE_NODE, 2)
            self.ipcache(f"{REMOTE_NODE6}/128", 6, cluster_id=2)
            self.ipcache(f"{NODE6}/128", 1, cluster_id=1)
        self.ring.drain()

    def endpoint(self, flags: int = 0, revision: int = 1, address: str = POD, mac: str = "02:00:00:00:0a:01") -> None:
        """POD or NEIGHBOUR with these policy settings."""
        ifindex, endpoint_id, identity = (
            (_POD_IFINDEX, ENDPOINT_ID, POD_ID)
            if address == POD
            else (_NEIGHBOUR_IFINDEX, NEIGHBOUR_ENDPOINT_ID, NEIGHBOUR_ID)
        )
        macs = (mac, "02:00:00:00:0b:01")
        value = layout.EndpointValue(ifindex, endpoint_id, flags, identity, revision, *macs, address)
        self.maps.endpoints_by_address.update([(layout.AddressKey(address), value)])
        if self._ipv6_maps:
            self.maps.endpoints_by_address.update([(layout.AddressKey(_IPV6_OF[address]), value)])
        self.maps.endpoints_by_ifindex.update([(layout.IfindexKey(ifindex), value)])

    def ipcache(self, prefix: str, identity: int, tunnel: str = "0.0.0.0", cluster_id: int = 0) -> None:
        """The prefix belongs to this identity."""
        value = layout.IpcacheValue(identity, tunnel, cluster_id)
        self.maps.ipcache.update([(layout.IpcacheKey(prefix), value)])

    def service(
        self,
        backends: list[tuple[int, str, int]],
        protocol: int = 6,
        affinity_s: int = 0,
        algorithm: layout.ServiceAlgorithm = layout.ServiceAlgorithm.RANDOM,
        address: str = VIP,
        reach: int = 0,
    ) -> None:
        """Port 80 of the address leads to these (id, address, port), one slot each in their order, written in the safe order."""
        maps, service_id = self.service_maps(address), 7
        maps.backends.update(
            [
                (layout.BackendKey(i), layout.BackendValue(a, p, protocol, cluster_id=cluster_of(a)))
                for i, a, p in backends
            ]
        )
        maps.members.update([(layout.MemberKey(service_id, i), layout.MemberValue()) for i, _, _ in backends])
        head = layout.ServiceKey(address, 80, protocol)
        maps.services.update(
            [(head._replace(slot=n), layout.ServiceValue(i, service_id)) for n, (i, _, _) in enumerate(backends, 1)]
        )
        flags = reach | (layout.ServiceFlag.AFFINITY if affinity_s else 0)
        maps.services.update([(head, layout.ServiceValue(affinity_s, service_id, len(backends), flags, algorithm))])

    def service_maps(self, address: str) -> ServiceMaps:
        """Of the address's family."""
        found = self.maps.of_ipv6 if ":" in address else self.maps.of_ipv4
        assert found is not None
        return found

    def policy(self, key: layout.PolicyKey, precedence: int = 1, *, deny: bool = False, proxy_port: int = 0) -> None:
        """One policy entry; its rule id is its precedence."""
        self.maps.policy.update([(key, layout.PolicyValue(deny, precedence, precedence, proxy_port))])

    def send(self, packet: Packet | bytes) -> Outcome:
        """POD sends it."""
        return self._run(self.datapath.program_fd("mesh_from_container"), packet, 0, 0)

    def raw(self, packet: Packet | bytes) -> bytes:
        """The frame it became when POD sent it."""
        frame = packet if isinstance(packet, bytes) else packet.frame()
        return syscall.run_packet(self.datapath.program_fd("mesh_from_container"), frame, 0, 0).packet

    def push(self, frame: bytes) -> None:
        """POD sends it; nobody looks at what becomes of it."""
        syscall.run_packet(self.datapath.program_fd("mesh_from_container"), frame, 0, 0)

    def receive(self, packet: Packet | bytes) -> Outcome:
        """The node's stack sends it to POD."""
        return self._run(self.datapath.program_fd("mesh_to_container"), packet, 0, 0)

    def overlay(self, packet: Packet | bytes, identity: int = REMOTE_ID, outer: str = REMOTE_NODE) -> Outcome:
        """It arrives by VXLAN from `outer` with `identity` as VNI."""
        priority = struct.unpack("<I", bytes(int(b) for b in outer.split(".")))[0]
        is_ipv6 = not isinstance(packet, bytes) and ":" in packet.source
        program = self._entries[1].program_fd("test_from_overlay6") if is_ipv6 else self._entry_fd("test_from_overlay")
        return self._run(program, packet, identity, priority)

    def _entry_fd(self, name: str) -> int:
        return self._entries[0].program_fd(name)

    def leave(self, packet: Packet, mark: int = 0) -> Outcome:
        """The node's stack sends it to another node."""
        return self._run(self.datapath.program_fd("mesh_to_underlay"), packet, mark, 0)

    def arrive(self, packet: Packet) -> int:
        """It comes to the node through the underlay device, and passes. The priority it goes on with."""
        result = syscall.run_packet(self.datapath.program_fd("mesh_from_underlay"), packet.frame())
        assert result.verdict == PASS
        return result.priority

    def outside(self, packet: Packet | bytes, mac: bytes = bytes(6)) -> Outcome:
        """It comes to the node through the underlay device, whose MAC is zero, in a frame for this MAC."""
        return self._run(self.datapath.program_fd("mesh_from_underlay"), packet, 0, 0, mac)

    def tagged(self, packet: Packet, vlan: int, *, is_sent: bool) -> Outcome:
        """It passes the underlay device, in or out, with a VLAN tag beside its frame."""
        name = "test_tagged_by_overlay" if is_sent else "test_tagged_from_outside"
        return self._run(self._entry_fd(name), packet, vlan, 0, bytes(6))

    def metric(self, reason: Reason, direction: int) -> int:
        """Packets counted."""
        value = self.maps.metrics.get(MetricKey(reason, direction))
        assert value is not None
        return value.packets

    def _run(self, program: int, packet: Packet | bytes, mark: int, priority: int, mac: bytes = NODE_MAC) -> Outcome:
        frame = packet if isinstance(packet, bytes) else mac + packet.frame()[6:]
        result = syscall.run_packet(program, frame, mark, priority)
        intact = not isinstance(packet, bytes)
        reader = read6 if result.packet[12:14] == b"\x86\xdd" else read
        return Outcome(result.verdict, reader(result.packet) if intact else Packet("", ""), self.ring.drain())
