# SPDX-License-Identifier: Apache-2.0
"""What the agent says about itself: rows, sessions and maps in the shapes of meshmodel.status. Reads, never writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from agent.loadbalancer.select import Candidate
from agent.mesh.state import SessionRecord
from agent.tables import FrontendKey, Service, ServicePort
from meshmodel.keys import Kind
from meshmodel.names import ClusterName, ServiceName
from meshmodel.status import (
    AgentStatus,
    BackendStatus,
    MapStatus,
    PeerState,
    RemoteCluster,
    RemoteClusterConfig,
    RemoteClusterSynced,
    ServiceStatus,
)
from meshpolicy import Policy
from meshpolicy.scope import find_widening

if TYPE_CHECKING:
    from agent.served import Served

MAP_NAMES = (
    "services", "backends", "members", "ipcache", "policy", "endpoints_by_address",
    "conntrack_tcp", "conntrack_other", "affinity",
)  # fmt: skip
_TABLE_OF = {"services": "frontends", "ipcache": "prefixes", "policy": "endpoints"}


class RealizedFrontend(msgspec.Struct, rename="kebab", kw_only=True):
    """One frontend as the kernel has it. `received` and `realized` are wall seconds of the record and of the map write."""

    frontend: str
    count: int
    backends: list[str]
    received: float = 0.0
    realized: float = 0.0
    matches: bool = True


class ServiceExplanation(msgspec.Struct, rename="kebab", kw_only=True):
    """Why a service's traffic goes where it goes on this node."""

    name: str
    rule: str
    frontends: list[ServiceStatus]
    realized: list[RealizedFrontend]
    is_global: bool = msgspec.field(default=False, name="global")
    shared: bool = False
    affinity: str = "none"
    last_update: float = 0.0
    problems: list[str] = msgspec.field(default_factory=list)


class Reporter:
    """Makes reports of one agent."""

    def __init__(self, agent: Served, program_version: str) -> None:
        self._agent, self._version = agent, program_version

    # ---- whole agent

    def status(self) -> AgentStatus:
        agent, db = self._agent, self._agent.db
        return AgentStatus(
            node=agent.facts.node,
            cluster=db.own,
            cluster_id=db.own_id,
            version=self._version,
            ready=agent.health.ready(),
            started=agent.started_wall_s,
            peers=[self.cluster(state) for state in agent.mesh.states()],
            endpoints=len(db.endpoints),
            services=len(db.frontends),
            global_services=sum(1 for s in db.services.rows() if s.is_global),
            identities=len(db.identities),
            policies=len(db.policies),
            maps=self.maps(),
            health={name: f"{c.level}: {c.message}" if c.message else str(c.level) for name, c in self._health()},
            datapath={"kind": agent.settings.datapath, "lost-events": str(agent.host.lost())},
            problems=self.problems(),
        )

    def problems(self) -> list[str]:
        """One sentence for each thing a person should look at."""
        agent, db = self._agent, self._agent.db
        found = [f"peer configuration {name}: {reason}" for name, reason in sorted(agent.mesh.refused.items())]
        found += [f"service {s.name}: {p}" for s in db.services.rows() for p in s.problems]
        for row in db.policies.rows():
            label = f"{row.kind} {row.namespace}/{row.name}" if row.namespace else f"{row.kind} {row.name}"
            if not row.is_valid:
                found.append(f"{label} refused: {row.message}")
            found += [f"{label}: {problem}" for problem in row.problems]
        found += describe_widening(agent.compiler.engine.policies(), agent.mesh.drained)
        for state in agent.mesh.states():
            found += [f"peer {state.name}: {warning}" for warning in state.warnings]
            found += [f"peer {state.name}: {n} records rejected ({r})" for r, n in self._rejected(state).items()]
        own = self.own_store()
        if own is not None and not own.ready:
            found.append(f"own store: {own.reason or own.status}")
        waiting = self._agent.discovery.waiting
        found += [f"pod {address}: no interface found on this node" for address in waiting]
        found += [f"{name}: {c.message}" for name, c in self._health() if c.level != "ok" and name.startswith("map ")]
        return found

    def _health(self) -> Iterable[tuple[str, Any]]:
        return self._agent.health.snapshot().items()

    def maps(self) -> list[MapStatus]:
        """Entries and limits; counting walks a map, so this is not for a hot path."""
        found = []
        for name in MAP_NAMES:
            info = getattr(self._agent.maps, name).info()
            reconciler = self._agent.reconcilers.get(_TABLE_OF.get(name, ""))
            status = reconciler.status() if reconciler is not None else None
            found.append(
                MapStatus(
                    name=name,
                    entries=info.count,
                    maximum=info.max_entries,
                    pending=status.pending if status is not None else 0,
                    failed=status.failed if status is not None else 0,
                )
            )
        return found

    # ---- clusters

    def own_store(self) -> RemoteCluster | None:
        """The own cluster's store, as a session like any other."""
        member = self._agent.mesh.members.get(self._agent.db.own)
        return None if member is None else self.cluster(member.state)

    def cluster(self, state: SessionRecord) -> RemoteCluster:
        now_s = self._agent.clock.wall()
        config, counts, synced = state.config, state.counts, state.synced
        return RemoteCluster(
            name=state.name,
            ready=state.is_ready and state.state is not PeerState.WITHDRAWN,
            connected=state.is_connected,
            status=self._status_text(state),
            num_nodes=counts.get(Kind.NODES, 0),
            num_shared_services=counts.get(Kind.SERVICES, 0),
            num_endpoints=counts.get(Kind.IPS, 0),
            num_identities=counts.get(Kind.IDENTITIES, 0),
            num_endpoint_slices=counts.get(Kind.ENDPOINT_SLICES, 0),
            num_failures=state.failures,
            last_failure=state.last_failure_wall_s,
            last_error=state.last_error,
            config=RemoteClusterConfig(
                retrieved=config is not None,
                cluster_id=config.id if config is not None else 0,
                kvstoremesh=config is not None and config.cached,
                sync_canaries=config is not None and config.synced_canaries,
                service_exports_enabled=config.service_exports_enabled if config is not None else None,
                endpoint_slices_export_mode=config.endpoint_slices_export_mode if config is not None else "",
            ),
            synced=RemoteClusterSynced(
                nodes=synced.get(Kind.NODES, False),
                services=synced.get(Kind.SERVICES, synced.get(Kind.ENDPOINT_SLICES, False)),
                identities=synced.get(Kind.IDENTITIES, False),
                endpoints=synced.get(Kind.IPS, False),
                endpoint_slices=synced.get(Kind.ENDPOINT_SLICES) if Kind.ENDPOINT_SLICES in state.kinds else None,
            ),
            state=state.state,
            reason=state.reason,
            probes_reached=state.probes_reached,
            probes_total=state.probes_total,
            session_since=state.session_since_wall_s if state.is_connected else 0.0,
            last_update=state.last_update_wall_s,
            age_s=self._age(state, now_s),
            revision=state.revision,
            records_rejected=self._rejected(state),
            warnings=list(state.warnings),
        )

    def _age(self, state: SessionRecord, now_s: float) -> float | None:
        """How long ago the store was last known to agree with what we hold: now, while its session stands."""
        if state.is_ready:
            return max(0.0, self._agent.clock.monotonic() - state.last_heartbeat_s)
        return now_s - state.last_update_wall_s if state.last_update_wall_s else None

    def _status_text(self, state: SessionRecord) -> str:
        if state.is_connected:
            return f"etcd: connected, ID: {state.store_id:x}" if state.store_id else "etcd: connected"
        return state.reason or state.last_error

    def _rejected(self, state: SessionRecord) -> dict[str, int]:
        return dict(self._agent.mesh.rejections.counts(state.name))

    # ---- services

    def services(self, cluster: str = "", namespace: str = "") -> list[ServiceStatus]:
        rows = sorted(self._agent.db.services.rows(), key=lambda s: s.name)
        found = [
            self._service(service, port, address.ip, address.kind)
            for service in rows
            if not namespace or service.name.namespace == namespace
            for port in service.ports
            for address in service.addresses
        ]
        return [s for s in found if not cluster or any(b.cluster == cluster for b in s.backends)]

    def explain(self, name: ServiceName) -> ServiceExplanation | None:
        service = self._agent.db.services.get(name)
        if service is None:
            return None
        rules = {self._agent.load_balancer.choose(service, port)[0].reason for port in service.ports}
        updates = [
            row.updated_wall_s
            for cluster in {self._agent.db.own, *self._agent.mesh.members}
            if (row := self._agent.db.backends.get((name, cluster))) is not None
        ]
        return ServiceExplanation(
            name=str(name),
            rule="; ".join(sorted(rules)),
            frontends=[self._service(service, port, a.ip, a.kind) for port in service.ports for a in service.addresses],
            realized=[
                self._realized(FrontendKey(a.ip, port.port, port.protocol))
                for port in service.ports
                for a in service.addresses
            ],
            is_global=service.is_global,
            shared=service.is_shared,
            affinity=service.affinity.value,
            last_update=max(updates, default=0.0),
            problems=list(service.problems),
        )

    def _service(self, service: Service, port: ServicePort, ip: str, kind: str) -> ServiceStatus:
        choice, candidates = self._agent.load_balancer.choose(service, port)
        chosen = set(map(id, choice.chosen))
        return ServiceStatus(
            frontend=str(FrontendKey(ip, port.port, port.protocol)),
            type=kind,
            name=str(service.name),
            backends=[self._backend(service, c, is_chosen=id(c) in chosen) for c in candidates],
            affinity=service.affinity.value,
            is_global=service.is_global,
            problems=list(service.problems),
        )

    def _backend(self, service: Service, candidate: Candidate, *, is_chosen: bool) -> BackendStatus:
        backend = candidate.backend
        row = self._agent.db.backends.get((service.name, ClusterName(candidate.cluster)))
        age_s = self._agent.clock.wall() - row.updated_wall_s if row is not None and row.updated_wall_s else None
        return BackendStatus(
            address=backend.address,
            port=backend.port,
            cluster=candidate.cluster,
            state=backend.condition.value if backend.is_healthy else "unhealthy",
            chosen=is_chosen,
            age_s=age_s,
        )

    def _realized(self, key: FrontendKey) -> RealizedFrontend:
        row, live = self._agent.db.frontends.get(key), self._agent.lb_target.live(key)
        backends = sorted(f"{t.address}:{t.port}" for t in (live.slots if live is not None else ()) if t is not None)
        wanted = sorted(f"{t.address}:{t.port}" for t in row.chosen) if row is not None else []
        return RealizedFrontend(
            frontend=str(key),
            count=(live.count or 0) if live is not None else 0,
            backends=backends,
            received=row.received_wall_s if row is not None else 0.0,
            realized=live.written_wall_s if live is not None else 0.0,
            matches=backends == wanted,
        )


def as_text(value: object) -> str | int | float | bool | None:
    """A field of a row for JSON: numbers stay, everything else is its text."""
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def drops(metrics: Iterable[tuple[Any, Any]]) -> Mapping[tuple[int, int], int]:
    """Packets by (reason, direction) of the kernel's counters."""
    return {(key.reason, key.direction): value.packets for key, value in metrics if value.packets}


def describe_widening(policies: Iterable[Policy], drained: Mapping[ClusterName, tuple[str, ...]]) -> list[str]:
    """What rules for addresses admit since clusters are no peers any more: their pods have no identities here now."""
    known = tuple(policies)
    return [
        f"{widening.origin}: {peer} is no peer any more, so {widening.selector} now means its pods too "
        f"({', '.join(widening.prefixes)})"
        for peer, networks in sorted(drained.items())
        for widening in find_widening(known, networks)
    ]
