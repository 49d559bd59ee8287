# SPDX-License-Identifier: Apache-2.0
"""Services as rows of meshapi: every candidate, the rule that decided, what the kernel holds. Reads, never writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from agent.loadbalancer.families import FamiliesTarget
from agent.loadbalancer.frontend import clients_of, frontend_keys, is_ipv6, key_of, pairs_by_port
from agent.loadbalancer.ownership import CLUSTER_IP
from agent.loadbalancer.select import Candidate
from agent.loadbalancer.why_not import WhyNot
from agent.loadbalancer.writer import LoadBalancerWriter
from agent.tables import Address, AgentDB, FrontendKey, Service, ServicePort, Target
from meshapi.service import BackendStatus, RealizedFrontend, ServiceExplanation, ServiceStatus
from meshkit.clock import Clock
from meshkit.reconciler import Failure
from meshmodel.address import place_of
from meshmodel.names import ClusterName, ServiceName


class ServiceRows:
    """Makes the rows of services from the tables and the live entries of the service map."""

    def __init__(
        self,
        db: AgentDB,
        writer: LoadBalancerWriter,
        target: FamiliesTarget,
        clock: Clock,
        failure_of: Callable[[FrontendKey], Failure | None] = lambda _key: None,
    ) -> None:
        self._db, self._writer, self._target, self._clock = db, writer, target, clock
        self._failure_of = failure_of

    def services(self, cluster: str = "", namespace: str = "") -> list[ServiceStatus]:
        """Every service address in order of names; `cluster` keeps those with a backend there."""
        rows = sorted(self._db.services.rows(), key=lambda s: s.name)
        found = [
            row
            for service in rows
            if not namespace or service.name.namespace == namespace
            for row in self._frontends(service)
        ]
        return [s for s in found if not cluster or any(b.cluster == cluster for b in s.backends)]

    def explain(self, name: ServiceName) -> ServiceExplanation | None:
        """Why the service's traffic goes where it goes; None if this cluster has no such service."""
        service = self._db.services.get(name)
        if service is None:
            return None
        kinds = {(address.kind == CLUSTER_IP, is_ipv6(address)) for address in service.addresses}
        choose = self._writer.chooser.choose
        rules = {
            choose(service, port, is_inside=inside, is_ipv6=wide)[0].reason
            for port in service.ports
            for inside, wide in kinds
        }
        frontends = pairs_by_port(service)
        return ServiceExplanation(
            name=str(name),
            cluster=self._db.own,
            node=self._db.node_name,
            rule="; ".join((*sorted(rules), *self._withheld(service))),
            frontends=self._frontends(service),
            realized=[self._realized(FrontendKey(address.ip, port.port, port.protocol)) for address, port in frontends],
            is_global=service.is_global,
            shared=service.is_shared,
            affinity=service.affinity.value,
            last_update=self._last_update(name),
            problems=self.problems(service),
        )

    def _withheld(self, service: Service) -> list[str]:
        """Clusters whose backends are not for us, as sentences."""
        found = [row.cluster for row in self._writer.chooser.rows_of(service.name) if row.is_withheld]
        return [f"{name} does not export it to {self._db.own} (export-to)" for name in found if service.is_global]

    def _frontends(self, service: Service) -> list[ServiceStatus]:
        problems = self.problems(service)
        return [self._service(service, port, address, problems) for address, port in pairs_by_port(service)]

    def problems(self, service: Service) -> list[str]:
        """What its object says wrongly, what it asks for in vain, and which of its frontends the maps do not hold."""
        decided = self._db.service_problems.get(service.name)
        found = [*service.problems, *(decided.problems if decided is not None else ())]
        for key in frontend_keys(service):
            row, failure = self._db.frontends.get(key), self._failure_of(key)
            if failure is not None and row is not None and row.service == service.name:
                found.append(f"FAILED {key}: {failure.error}")
        return found

    def _last_update(self, name: ServiceName) -> float:
        clusters = {self._db.own, *(peer.name for peer in self._db.peers.rows())}
        rows = (self._db.backends.get((name, cluster)) for cluster in clusters)
        return max((row.updated_wall_s for row in rows if row is not None), default=0.0)

    def _service(self, service: Service, port: ServicePort, address: Address, problems: list[str]) -> ServiceStatus:
        """An address and port that the service asks for in vain chooses no backend."""
        is_inside = address.kind == CLUSTER_IP
        choose, is_wide = self._writer.chooser.choose, is_ipv6(address)
        choice, candidates = choose(service, port, is_inside=is_inside, is_ipv6=is_wide)
        key = key_of(address, port)
        row = self._db.frontends.get(key)
        slots = Counter(row.chosen) if row is not None and row.service == service.name else Counter()
        chosen, total = set(map(id, choice.chosen)), slots.total()
        why_not = WhyNot(service, choice, self._writer.chooser.here, is_inside=is_inside)

        def reason(candidate: Candidate) -> str:
            if id(candidate) in chosen:
                return "" if slots else "the address is not this service's here"
            peer = self._db.peers.get(ClusterName(candidate.cluster))
            return why_not.reason(
                candidate,
                is_withdrawn=peer is not None and peer.is_withdrawn,
                is_failing=self._writer.chooser.is_failing(service, candidate),
                is_drained=candidate.cluster in self._db.drained,
            )

        def status(candidate: Candidate) -> BackendStatus:
            backend, why = candidate.backend, reason(candidate)
            target = Target(backend.address, backend.port, backend.protocol, candidate.cluster_id)
            return self._backend(service, candidate, 0.0 if why else round(slots[target] / total, 4), why)

        return ServiceStatus(
            frontend=str(key),
            type=address.kind,
            clients=clients_of(row) if row is not None and row.service == service.name else [],
            name=str(service.name),
            backends=[status(candidate) for candidate in candidates],
            affinity=service.affinity.value,
            is_global=service.is_global,
            problems=problems,
        )

    def _backend(self, service: Service, candidate: Candidate, share: float, reason: str) -> BackendStatus:
        backend = candidate.backend
        row = self._db.backends.get((service.name, ClusterName(candidate.cluster)))
        age_s = self._clock.wall() - row.updated_wall_s if row is not None and row.updated_wall_s else None
        return BackendStatus(
            address=backend.address,
            port=backend.port,
            cluster=candidate.cluster,
            state=backend.condition.value if backend.is_healthy else "unhealthy",
            chosen=not reason,
            share=share,
            node=backend.node,
            zone=backend.zone,
            age_s=age_s,
            reason=reason,
        )

    def _realized(self, key: FrontendKey) -> RealizedFrontend:
        row, live = self._db.frontends.get(key), self._target.live(key)
        backends = sorted(
            place_of(t.address, t.port) for t in (live.slots if live is not None else ()) if t is not None
        )
        wanted = sorted(place_of(t.address, t.port) for t in row.chosen) if row is not None else []
        return RealizedFrontend(
            frontend=str(key),
            count=(live.count or 0) if live is not None else 0,
            backends=backends,
            received=row.received_wall_s if row is not None else 0.0,
            realized=live.written_wall_s if live is not None else 0.0,
            matches=backends == wanted,
        )
