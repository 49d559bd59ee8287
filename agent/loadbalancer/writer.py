# SPDX-License-Identifier: Apache-2.0
"""The only verbs on the load-balancing tables. Each call leaves the frontends of that service as its inputs say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agent.loadbalancer.select import Candidate, Choice, Counts, select, sides
from agent.tables import (
    AgentDB,
    Backend,
    BackendSet,
    Frontend,
    FrontendKey,
    Peer,
    Service,
    ServicePort,
    Target,
)
from meshmodel.condition import Condition
from meshmodel.names import ClusterId, ClusterName, ServiceName


class LoadBalancerWriter:
    """Writes services, backends and frontends; every method must be called inside `db.write()`."""

    def __init__(self, db: AgentDB) -> None:
        self._db = db
        self._clusters: list[ClusterName] = [db.own]  # own cluster first, then by name: the order of selection
        self._contested: dict[FrontendKey, set[ServiceName]] = {}

    def set_service(self, service: Service) -> None:
        """The service is as given, and so are its frontends; ports and addresses it no longer has are gone."""
        old = self._db.services.get(service.name)
        if not self._db.services.put(service):
            return
        if old is not None:
            for key in set(_frontend_keys(old)) - set(_frontend_keys(service)):
                self._delete_frontend(key, service.name)
        self._select(service)

    def delete_service(self, name: ServiceName) -> None:
        """No frontend of the service is left. What peers contribute to it stays known."""
        old = self._db.services.get(name)
        if old is None:
            return
        self._db.services.delete(name)
        for key in _frontend_keys(old):
            self._delete_frontend(key, name)

    def set_backends(
        self, name: ServiceName, cluster: ClusterName, cluster_id: ClusterId, backends: Sequence[Backend], wall_s: float
    ) -> None:
        """The cluster's whole contribution to the service is `backends`; nothing of it is left when they are empty."""
        if backends:
            if cluster not in self._clusters:
                self._clusters = [self._db.own, *sorted({*self._clusters, cluster} - {self._db.own})]
            is_plain = all(b.is_healthy and b.condition is Condition.ACTIVE for b in backends)
            changed = self._db.backends.put(BackendSet(name, cluster, cluster_id, tuple(backends), wall_s, is_plain))
        else:
            changed = self._db.backends.delete((name, cluster))
        service = self._db.services.get(name) if changed else None
        if service is not None and (service.is_global or cluster == self._db.own):
            self._select(service, wall_s)

    def drain_cluster(self, cluster: ClusterName) -> None:
        """Nothing the cluster contributed is left anywhere."""
        for row in [b for b in self._db.backends.rows() if b.cluster == cluster]:
            self.set_backends(row.service, cluster, row.cluster_id, (), 0.0)

    def set_peer(self, peer: Peer) -> None:
        """A withdrawn peer's backends count as unhealthy from here on; a peer that is back counts again."""
        if not self._db.peers.put(peer):
            return
        names = [b.service for b in self._db.backends.rows() if b.cluster == peer.name]
        for name in names:
            service = self._db.services.get(name)
            if service is not None:
                self._select(service)

    def delete_peer(self, name: ClusterName) -> None:
        self._db.peers.delete(name)

    def candidates(self, service: Service, port: ServicePort, *, with_withdrawals: bool = True) -> list[Candidate]:
        """Every backend that fits the port by protocol and name, own cluster first."""
        out: list[Candidate] = []
        for cluster in self._clusters:
            row = self._db.backends.get((service.name, cluster))
            if row is None:
                continue
            is_local = cluster == self._db.own
            peer = None if is_local else self._db.peers.get(cluster)
            is_withdrawn = with_withdrawals and peer is not None and peer.is_withdrawn
            for backend in row.backends:
                if backend.protocol != port.protocol or port.name not in backend.names:
                    continue
                kept = backend._replace(is_healthy=False) if is_withdrawn else backend
                out.append(Candidate(kept, cluster, row.cluster_id, is_local))
        return out

    def choose(self, service: Service, port: ServicePort) -> tuple[Choice, list[Candidate]]:
        """The decision for one port and what it was made from: the same call explains it to people.

        Withdrawn peers count as unhealthy, unless the service would be left with nothing by that alone.
        """
        candidates = self.candidates(service, port)
        choice = select(is_global=service.is_global, affinity=service.affinity, candidates=candidates)
        if not choice.chosen and service.is_global and self._any_withdrawn():
            kept = self.candidates(service, port, with_withdrawals=False)
            again = select(is_global=True, affinity=service.affinity, candidates=kept)
            if again.chosen:
                return again._replace(reason=f"{again.reason}; withdrawn peers are kept, nothing else is left"), kept
        return choice, candidates

    def _any_withdrawn(self) -> bool:
        return any(peer.is_withdrawn for peer in self._db.peers.rows())

    def _select(self, service: Service, wall_s: float = 0.0) -> None:
        for port in service.ports:
            chosen, draining = self._targets_of(service, port)
            for address in service.addresses:
                self._put_frontend(
                    Frontend(
                        key=FrontendKey(address.ip, port.port, port.protocol),
                        service=service.name,
                        kind=address.kind,
                        port_name=port.name,
                        chosen=chosen,
                        draining=draining,
                        session_affinity_s=service.session_affinity_s,
                        received_wall_s=wall_s,
                    )
                )

    def _targets_of(self, service: Service, port: ServicePort) -> tuple[tuple[Target, ...], tuple[Target, ...]]:
        """What `choose` says, as targets; sets whose backends need no looking at one by one are taken whole."""
        plain = self._plain_targets(service, port)
        if plain is not None:
            return plain, ()
        choice, _ = self.choose(service, port)
        chosen = _targets(choice.chosen)
        draining = tuple(t for t in _targets(choice.draining) if t not in chosen) if choice.draining else ()
        return chosen, draining

    def _plain_targets(self, service: Service, port: ServicePort) -> tuple[Target, ...] | None:
        """The same answer as `choose` where every backend is healthy and active, None elsewhere."""
        local: list[Target] = []
        remote: list[Target] = []
        for cluster in self._clusters:
            row = self._db.backends.get((service.name, cluster))
            if row is None:
                continue
            peer = self._db.peers.get(cluster)
            if not row.is_plain or (peer is not None and peer.is_withdrawn):
                return None
            name, protocol, cluster_id = port.name, port.protocol, row.cluster_id
            (local if cluster == self._db.own else remote).extend(
                Target(b.address, b.port, protocol, cluster_id)
                for b in row.backends
                if b.protocol == protocol and name in b.names
            )
        counts = Counts(len(local), len(local), len(remote) if service.is_global else 0)
        use_local, use_remote, _ = sides(counts, is_global=service.is_global, affinity=service.affinity)
        return (*(local if use_local else ()), *(remote if use_remote else ()))

    def _put_frontend(self, frontend: Frontend) -> None:
        """Of several services that claim one address, the first by name has it, in whatever order they came."""
        key, name = frontend.key, frontend.service
        old = self._db.frontends.get(key)
        if old is not None and old.service != name and self._has_claim(old.service, key):
            self._contested.setdefault(key, set()).update((old.service, name))
        if key in self._contested and name != min(self._contested[key]):
            return
        self._db.frontends.put(frontend)

    def _delete_frontend(self, key: FrontendKey, name: ServiceName) -> None:
        row = self._db.frontends.get(key)
        if row is not None and row.service == name:
            self._db.frontends.delete(key)
        rivals = self._contested.get(key)
        if rivals is None:
            return
        rivals.discard(name)
        heir = self._db.services.get(min(rivals)) if rivals else None
        if len(rivals) <= 1:
            del self._contested[key]
        if heir is not None:
            self._select(heir)

    def _has_claim(self, name: ServiceName, key: FrontendKey) -> bool:
        service = self._db.services.get(name)
        return service is not None and key in _frontend_keys(service)


def _targets(candidates: Iterable[Candidate]) -> tuple[Target, ...]:
    """One target per address and port, in order; two port names of one backend are one target."""
    return tuple(
        dict.fromkeys(Target(c.backend.address, c.backend.port, c.backend.protocol, c.cluster_id) for c in candidates)
    )


def _frontend_keys(service: Service) -> tuple[FrontendKey, ...]:
    return tuple(
        FrontendKey(address.ip, port.port, port.protocol) for address in service.addresses for port in service.ports
    )
