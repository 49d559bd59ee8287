# SPDX-License-Identifier: Apache-2.0
"""One agent's tables, writers and targets without kernel, etcd or clock: what property tests drive directly.

The own cluster is `north` (id 1) on node 172.18.0.2.
"""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from agent.datapath.layout import BackendState, ServiceAlgorithm, ServiceFlag
from agent.datapath.maps import ServiceMaps
from agent.datapath.memory import MemoryMaps, memory_maps
from agent.identity.writer import IdentityWriter
from agent.ipcache.ops import IpcacheTarget
from agent.ipcache.writer import PrefixWriter
from agent.loadbalancer.convert import strip_service
from agent.loadbalancer.follower import AddressFollower
from agent.loadbalancer.known_addresses import KnownAddresses
from agent.loadbalancer.ops import LoadBalancerTarget
from agent.loadbalancer.writer import LoadBalancerWriter
from agent.mesh.ingest import Ingest, Writers
from agent.mesh.networks import Networks
from agent.mesh.rejections import Rejections
from agent.nodes.writer import NodeWriter
from agent.tables import AgentDB, Backend
from kvstore.store import ChangeKind as EventKind
from kvstore.store import Event, Phase
from meshkit.clock import Clock, ManualClock
from meshkit.reconciler import Reconciler
from meshmodel.address import place_of
from meshmodel.cluster_config import ClusterConfig
from meshmodel.condition import Condition
from meshmodel.keys import Kind
from meshmodel.names import ClusterId, ClusterName, ServiceName
from meshmodel.protocol import PROTOCOL_NAMES
from meshpeer.kinds import BACKEND_KINDS
from meshpeer.record_views import RecordViews

KINDS = {
    "services": Kind.SERVICES,
    "nodes": Kind.NODES,
    "ips": Kind.IPS,
    "identities": Kind.IDENTITIES,
    "endpointslices": Kind.ENDPOINT_SLICES,
}


class Fed:
    """One followed cluster, whose records come from the test."""

    def __init__(
        self,
        name: str,
        cluster_id: int,
        db: AgentDB,
        writers: Writers,
        networks: Networks,
        rejections: Rejections,
        clock: Clock,
    ) -> None:
        self.ingest = Ingest(ClusterName(name), db, writers, networks=networks, rejections=rejections, clock=clock)
        _finish(self.ingest.begin(ClusterConfig(id=ClusterId(cluster_id)), list(KINDS.values())))
        self.cluster_id, self._views = cluster_id, RecordViews()

    def feed(self, kind: Kind, phase: Phase, *changes: tuple[str, bytes | None]) -> None:
        """One batch of one prefix, as a session hands it over; None deletes."""
        view = self._views.part(kind)
        if phase is Phase.LISTING:
            view.begin_listing()
        events = [
            Event(EventKind.PUT if v is not None else EventKind.DELETE, k.encode(), v or b"", 1) for k, v in changes
        ]
        self.ingest.apply(kind, view.feed(events, 0))
        if phase is Phase.LISTED:
            self.ingest.apply(kind, view.take_gone(len(view)))
            _finish(self.ingest.listed(kind))

    def expire(self) -> None:
        """The cluster's services are too old to be believed; the next listing brings them back."""
        self.ingest.drain_services()
        for kind in BACKEND_KINDS:
            self._views.forget(kind)


class World:
    """One agent's tables, writers and targets on memory maps."""

    def __init__(self, maps: MemoryMaps | None = None) -> None:
        self.clock = ManualClock()
        self.db = AgentDB(ClusterName("north"), ClusterId(1), "n1", "172.18.0.2")
        self.lb = LoadBalancerWriter(self.db)
        self.writers = Writers(self.lb, PrefixWriter(self.db), IdentityWriter(self.db), NodeWriter(self.db))
        self.networks, self.rejections = Networks(self.db.own), Rejections(self.clock)
        self.maps = maps or memory_maps()
        self.restart_target()
        self.peers: dict[str, Ingest] = {}
        self.fed: dict[str, Fed] = {}

    def restart_target(self) -> None:
        """As a new process would: the maps are what they are, the shadow is restored from them."""
        self.target = LoadBalancerTarget(self.maps.of_ipv4, self.clock.wall, owner_of=KnownAddresses(self.db).owner_of)
        self.target.restore()
        self.follower = AddressFollower(self.db, self.lb, (self.target.backends,))
        self.reconcilers = [
            Reconciler(self.db.frontends, self.target, clock=self.clock),
            Reconciler(self.db.prefixes, IpcacheTarget(self.maps.ipcache), clock=self.clock),
        ]

    # ---- inputs

    def peer(self, name: str, cluster_id: int) -> Ingest:
        fed = Fed(name, cluster_id, self.db, self.writers, self.networks, self.rejections, self.clock)
        self.fed[name], self.peers[name] = fed, fed.ingest
        return fed.ingest

    def feed(self, name: str, kind: Kind, phase: Phase, *changes: tuple[str, bytes | None]) -> None:
        """One batch of one peer's prefix; None deletes."""
        self.fed[name].feed(kind, phase, *changes)

    def service(self, manifest: dict[str, object]) -> None:
        row = strip_service(manifest)
        assert row is not None
        with self.db.write():
            self.lb.set_service(row)

    def local(self, name: str, *backends: str) -> None:
        """`address:port[,name][,terminating]` each."""
        found = []
        for text in backends:
            where, *marks = text.split(",")
            address, port = where.split(":")
            condition = Condition.TERMINATING if "terminating" in marks else Condition.ACTIVE
            names = tuple(m for m in marks if m not in ("terminating", "sick")) or ("",)
            found.append(Backend(address, int(port), "TCP", names, condition, "sick" not in marks))
        with self.db.write():
            self.lb.set_backends(ServiceName.parse(name), self.db.own, self.db.own_id, found, self.clock.wall())

    # ---- outputs

    def settle(self) -> None:
        """Reconcile until nothing is left to do; a failing map is retried on the manual clock."""
        self.follower.step()
        for reconciler in self.reconcilers:
            for _ in range(200):
                wake_at = reconciler.run_once(self.clock.monotonic()).wake_at
                status = reconciler.status()
                if status.is_settled:
                    break
                self.clock.advance(max(0.0, (wake_at or 0.0) - self.clock.monotonic()))
            else:
                raise AssertionError(f"did not settle: {reconciler.dump()}")

    def dump_maps(self, *, with_kept: bool = True) -> str:
        return show_services(self.maps, with_kept=with_kept)

    def dump_ipcache(self) -> str:
        return show_ipcache(self.maps)


def show_services(maps: MemoryMaps, *, with_kept: bool = False) -> str:
    """Frontends of the service map with the backends behind their slots, as a person would compare them.

    Backends without a slot are listed with their state; those that are only kept for open connections if asked for.
    """
    wide = [] if maps.of_ipv6 is None else _service_lines(maps.of_ipv6, with_kept=with_kept)
    return "\n".join([*_service_lines(maps.of_ipv4, with_kept=with_kept), *wide])


def _service_lines(maps: ServiceMaps, *, with_kept: bool) -> list[str]:
    lines = []
    heads = [(key, value) for key, value in maps.services.items() if key.slot == 0]
    by_id = {key.id: value for key, value in maps.backends.items()}
    slots = {(k.address, k.port, k.protocol, k.slot): v.backend_id for k, v in maps.services.items() if k.slot}
    for key, head in sorted(heads):
        found = [by_id[slots[key.address, key.port, key.protocol, n]] for n in range(1, head.count + 1)]
        names = sorted(place_of(b.address, b.port) for b in found)
        flags = f" affinity={head.backend_id}s" if head.flags & ServiceFlag.AFFINITY else ""
        if head.flags & ServiceFlag.SOURCE_RANGES:
            ranges = sorted(k.range for k, _ in maps.source_ranges.items() if k.service_id == head.service_id)
            flags += f" from={','.join(ranges) or 'nobody'}"
        proto = PROTOCOL_NAMES[key.protocol]
        lines.append(f"{place_of(key.address, key.port)}/{proto}{flags} -> {', '.join(names) or '-'}")
    owners = {head.service_id for _, head in heads if head.flags & ServiceFlag.SOURCE_RANGES}
    lines += sorted(f"RANGE {k.range} of nobody" for k, _ in maps.source_ranges.items() if k.service_id not in owners)
    used = set(slots.values())
    without_slot = [b for i, b in by_id.items() if i not in used]
    lines += sorted(
        f"KEPT {place_of(b.address, b.port)} {BackendState(b.state).name.lower()}"
        for b in without_slot
        if with_kept or b.state != BackendState.MAINTENANCE
    )
    return lines


def table_of(maps: MemoryMaps, frontend: str) -> list[str]:
    """Whom each slot of a frontend leads to, in order; its head must say that the order counts."""
    by_id = {key.id: value for key, value in maps.backends.items()}
    ((key, head),) = [
        (k, v)
        for k, v in maps.services.items()
        if not k.slot and f"{k.address}:{k.port}/{PROTOCOL_NAMES[k.protocol]}" == frontend
    ]
    assert head.algorithm == ServiceAlgorithm.MAGLEV, head
    slots = {k: v.backend_id for k, v in maps.services.items() if k.slot}
    found = [by_id[slots[key._replace(slot=n)]] for n in range(1, head.count + 1)]
    return [f"{b.address}:{b.port}" for b in found]


def show_ipcache(maps: MemoryMaps) -> str:
    """What the kernel knows of each prefix."""
    found = [
        f"{k.prefix} identity={v.identity} tunnel={v.tunnel} cluster={v.cluster_id}" for k, v in maps.ipcache.items()
    ]
    return "\n".join(sorted(found))


def _finish(verb: Coroutine[Any, Any, None]) -> None:
    """The ingest's verbs wait for nothing: one step is all of it."""
    with suppress(StopIteration):
        verb.send(None)
