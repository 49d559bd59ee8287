# SPDX-License-Identifier: Apache-2.0
"""What the agent needs of the machine: maps, attachments and events; the kernel's, or a stand-in that touches nothing."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Protocol

from agent.bootstrap import Facts
from agent.datapath import spec
from agent.datapath.config import Aggregation, AttachMode, Lifetimes, NodeConfig
from agent.datapath.flow_layout import ProbeKey, ProbeValue
from agent.datapath.lock import NodeLock
from agent.datapath.maps import Map, Maps
from agent.datapath.netlink import AddressedDevice
from agent.datapath.overlay_probe import Overlay, OverlayProbe
from agent.datapath.pod_interfaces import LinkSighting, sight
from agent.datapath.rtnetlink import ChangeSocket, LinkChanges
from agent.datapath.sizes import service_map_sizes
from agent.datapath.socket_end import BackendPlace, end_sockets
from agent.datapath.socket_layout import SocketKey, SocketValue
from agent.settings import AgentSettings


class Host(Protocol):
    """The seam below the agent.

    `unattached` are those of the interfaces on which our programs do not run, `unattached_node` the same for the node's own
    devices, as text, and `attach_node` attaches to these; before the maps are filled, both leave alone what runs a former
    agent's program. `sockets_obstacle` says why sockets of the node are left alone (empty: they are not),
    and `end_sockets` ends those that were led to backends that are gone. `unwatched` are
    devices of the node that no program watches, and `delivery_failure` says why what its stack leads to its processes is
    not judged (empty: it is). `unpinned` are the pins that are gone of what is in use, and `pin_again` makes them.
    `is_current`: the datapath was loaded for the devices and the address there are now, and `adapt` makes it so;
    `move_to` says that the node has another address; `sight` says where pod addresses are (the number is that of the
    interface each was last known on, or 0); `changes` are those of interfaces and routes from the call on.
    """

    def open(self) -> Maps: ...
    def attach(self, ifindex: int) -> None: ...
    def detach(self, ifindex: int) -> None: ...
    def attached(self) -> set[int]: ...
    def unattached(self, ifindexes: Collection[int]) -> set[int]: ...
    def unattached_node(self, *, is_filled: bool) -> Sequence[str]: ...
    def attach_node(self, *, is_filled: bool) -> None: ...
    def unwatched(self) -> Sequence[AddressedDevice]: ...
    def delivery_failure(self) -> str: ...
    def sockets_obstacle(self) -> str: ...
    def end_sockets(self, led: Map[SocketKey, SocketValue], places: Collection[BackendPlace]) -> int: ...
    def unpinned(self) -> Sequence[str]: ...
    def pin_again(self) -> None: ...
    def is_current(self) -> bool: ...
    def adapt(self) -> None: ...
    def move_to(self, address: str) -> None: ...
    def sight(self, asked: Sequence[tuple[str, int]]) -> Sequence[LinkSighting]: ...
    def changes(self) -> AsyncIterator[LinkChanges]: ...
    def events(self) -> AsyncIterator[Sequence[bytes]]: ...
    def wall_ns(self, timestamp_ns: int) -> int: ...
    def lost(self) -> Sequence[int]: ...
    def overlay(self, answers: Map[ProbeKey, ProbeValue]) -> Overlay | None: ...


class KernelHost:
    """This node's kernel."""

    def __init__(self, settings: AgentSettings, facts: Facts) -> None:
        from agent.datapath.loader import Datapath

        self.lock = NodeLock(settings.pin_directory)
        self.datapath = Datapath(node_config(settings, facts))
        self._overlay: OverlayProbe | None = None
        self._offset_ns = time.clock_gettime_ns(time.CLOCK_REALTIME) - time.clock_gettime_ns(time.CLOCK_MONOTONIC)

    def open(self) -> Maps:
        """Raises: NodeTakenError when another agent has this node, UnsupportedKernelError, and what Datapath.open raises."""
        from agent.datapath.features import check_kernel

        self.lock.take()
        check_kernel()
        maps = self.datapath.open()
        self._ring = self.datapath.event_ring()
        return maps

    def attach(self, ifindex: int) -> None:
        self.datapath.attach(ifindex)

    def detach(self, ifindex: int) -> None:
        self.datapath.detach(ifindex)

    def attached(self) -> set[int]:
        return self.datapath.attached()

    def unattached(self, ifindexes: Collection[int]) -> set[int]:
        return self.datapath.unattached(ifindexes)

    def unattached_node(self, *, is_filled: bool) -> Sequence[str]:
        return self.datapath.unattached_node(is_filled=is_filled)

    def attach_node(self, *, is_filled: bool) -> None:
        self.datapath.attach_node(is_filled=is_filled)

    def unwatched(self) -> Sequence[AddressedDevice]:
        """Raises: KernelError."""
        return self.datapath.unwatched()

    def delivery_failure(self) -> str:
        return self.datapath.delivery_failure

    def sockets_obstacle(self) -> str:
        return self.datapath.sockets_obstacle

    def end_sockets(self, led: Map[SocketKey, SocketValue], places: Collection[BackendPlace]) -> int:
        """Raises: KernelError. Blocks."""
        return end_sockets(led, places)

    def unpinned(self) -> Sequence[str]:
        return self.datapath.unpinned()

    def pin_again(self) -> None:
        """Raises: NodeTakenError when another agent has the directory by now, KernelError, OSError."""
        self.lock.take()
        self.datapath.pin_again()

    def is_current(self) -> bool:
        asks_from = self._overlay.address if self._overlay is not None else self.datapath.address
        return asks_from == self.datapath.address and self.datapath.is_current()

    def adapt(self) -> None:
        """Raises: LoadError, KernelError, OSError; then the programs go on that ran before."""
        if not self.datapath.is_current():
            self.datapath.adapt()
        if self._overlay is not None:
            self._overlay.fit(self.datapath.address, self.datapath.mtu)

    def move_to(self, address: str) -> None:
        self.datapath.move_to(address)

    def sight(self, asked: Sequence[tuple[str, int]]) -> Sequence[LinkSighting]:
        return sight(asked)

    def changes(self) -> AsyncIterator[LinkChanges]:
        return ChangeSocket().batches()

    def events(self) -> AsyncIterator[Sequence[bytes]]:
        return self._ring.batches()

    def wall_ns(self, timestamp_ns: int) -> int:
        """The kernel stamps events with CLOCK_MONOTONIC."""
        return timestamp_ns + self._offset_ns

    def lost(self) -> Sequence[int]:
        return self._ring.lost

    def overlay(self, answers: Map[ProbeKey, ProbeValue]) -> Overlay:
        self._overlay = self.datapath.overlay_probe(answers)
        return self._overlay


class MemoryHost:
    """No kernel: maps in memory, nothing attached, no events."""

    def __init__(self, *, ipv6: bool = False) -> None:
        self._ipv6 = ipv6
        self._attached: set[int] = set()
        self.address = ""

    def open(self) -> Maps:
        from agent.datapath.memory import memory_maps

        return memory_maps(ipv6=self._ipv6)

    def attach(self, ifindex: int) -> None:
        self._attached.add(ifindex)

    def detach(self, ifindex: int) -> None:
        self._attached.discard(ifindex)

    def attached(self) -> set[int]:
        return set(self._attached)

    def unattached(self, ifindexes: Collection[int]) -> set[int]:
        return set(ifindexes) - self._attached

    def unattached_node(self, *, is_filled: bool) -> Sequence[str]:  # noqa: ARG002 - it has no programs
        return ()

    def attach_node(self, *, is_filled: bool) -> None:  # noqa: ARG002 - it has no programs
        return

    def unwatched(self) -> Sequence[AddressedDevice]:
        return ()

    def delivery_failure(self) -> str:
        return ""

    def sockets_obstacle(self) -> str:
        return ""

    def end_sockets(self, led: Map[SocketKey, SocketValue], places: Collection[BackendPlace]) -> int:  # noqa: ARG002 - it has none
        return 0

    def unpinned(self) -> Sequence[str]:
        return ()

    def pin_again(self) -> None:
        return

    def is_current(self) -> bool:
        return True

    def adapt(self) -> None:
        return

    def move_to(self, address: str) -> None:
        self.address = address

    def sight(self, asked: Sequence[tuple[str, int]]) -> Sequence[LinkSighting]:
        return [LinkSighting() for _ in asked]

    async def changes(self) -> AsyncIterator[LinkChanges]:
        await asyncio.get_running_loop().create_future()
        yield LinkChanges()

    async def events(self) -> AsyncIterator[Sequence[bytes]]:
        await asyncio.get_running_loop().create_future()
        yield ()

    def wall_ns(self, timestamp_ns: int) -> int:
        return timestamp_ns

    def lost(self) -> Sequence[int]:
        return ()

    def overlay(self, answers: Map[ProbeKey, ProbeValue]) -> None:  # noqa: ARG002 - nothing answers here
        return None


def _memory_bytes() -> int:
    """The memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def node_config(settings: AgentSettings, facts: Facts) -> NodeConfig:
    """The datapath's constants of this node."""
    return NodeConfig(
        node_address=facts.node_ip,
        cluster_id=facts.cluster_id,
        pin_directory=settings.pin_directory,
        vxlan_port=settings.vxlan_port,
        underlay_device=settings.underlay_device,
        mtu=settings.mtu,
        attach_mode=AttachMode(settings.attach_mode),
        cluster_id_bits=9 if facts.maximum == 511 else 8,
        unattended_after_s=settings.unattended_after_s,
        control_group=None if settings.services == "none" else settings.control_group,
        leads_outsiders=settings.services != "none",
        ipv6=settings.ipv6,
        aggregation=Aggregation(settings.flow_aggregation),
        max_entries={
            spec.POLICY.name: settings.policy_entries,
            **service_map_sizes(settings.service_entries, _memory_bytes(), settings.ipv6_service_entries),
        },
        lifetimes=Lifetimes(
            settings.connection_established_s,
            settings.connection_opening_s,
            settings.connection_closing_s,
            settings.connection_other_s,
        ),
    )
