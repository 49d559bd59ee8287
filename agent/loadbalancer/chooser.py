# SPDX-License-Identifier: Apache-2.0
"""What every frontend leads to, from the tables as they are: the decision that is written and explained. Writes no table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from agent.loadbalancer.known_targets import KnownTargets
from agent.loadbalancer.maglev import maglev_table
from agent.loadbalancer.nearby import Locality, decide
from agent.loadbalancer.port_index import PortIndexes
from agent.loadbalancer.select import Candidate, Choice, Counts, sides
from agent.loadbalancer.selection_memory import SelectionMemory
from agent.loadbalancer.weights import weighted
from agent.tables import AgentDB, BackendSet, Service, ServicePort, Target
from meshkit.clock import Clock
from meshmodel.algorithm import MAGLEV_SIZES, Algorithm
from meshmodel.annotations import Affinity
from meshmodel.names import ClusterName, ServiceName
from meshmodel.steering import NO_STEERING

Leads: TypeAlias = tuple[tuple[Target, ...], tuple[Target, ...]]
"""Targets of new connections, and those that keep the connections they have."""


class Consistency(NamedTuple):
    """How services that do not say choose, and how many slots a Maglev table has."""

    algorithm: Algorithm
    table_size: int


RANDOM: Final = Consistency(Algorithm.RANDOM, MAGLEV_SIZES[0])


MOST_MISMATCHES: Final = 16
"""Ports of one service of which it is said that they fit no backends of a peer, or more than they should."""
NOBODY: Final[frozenset[tuple[str, str]]] = frozenset()


class Chooser:
    """Chooses among the backends of all clusters, seen from `here`."""

    def __init__(self, db: AgentDB, clock: Clock, consistency: Consistency = RANDOM) -> None:
        self._db, self._clock, self._consistency = db, clock, consistency
        self.memory = SelectionMemory()
        self._indexes = PortIndexes()
        self._targets = KnownTargets(self._indexes)
        self._clusters: list[ClusterName] = [db.own]  # own cluster first, then by name: the order of selection
        self.unreachable: frozenset[str] = frozenset()
        """Addresses that count as unhealthy whatever their cluster says: their node cannot be reached from here."""
        self.failing: Mapping[ServiceName, frozenset[tuple[str, str]]] = {}
        """Own pods that fail the health probe of a service: the node whose agent says so, and the address."""
        self.here = Locality(db.own, db.node_name)

    def know_cluster(self, cluster: ClusterName) -> None:
        """The cluster may have backends from here on."""
        if cluster not in self._clusters:
            self._clusters = [self._db.own, *sorted({*self._clusters, cluster} - {self._db.own})]

    def is_failing(self, service: Service, candidate: Candidate) -> bool:
        """Whether it is an own pod that fails the service's health probe."""
        pod = (candidate.backend.node, candidate.backend.address)
        return candidate.is_local and pod in self.failing.get(service.name, NOBODY)

    def rows_of(self, name: ServiceName, *, is_ipv6: bool = False) -> list[BackendSet]:
        """What each cluster contributes to the service, of one family, own cluster first."""
        get = self._db.backends.get
        found = [row for cluster in self._clusters if (row := get((name, cluster))) is not None]
        return [row.ipv6 for row in found if row.ipv6 is not None] if is_ipv6 else found

    def candidates(
        self,
        service: Service,
        port: ServicePort,
        *,
        is_ipv6: bool = False,
        with_withdrawals: bool = True,
        with_drains: bool = True,
    ) -> list[Candidate]:
        """Every backend that fits the port by protocol and name, own cluster first."""
        out: list[Candidate] = []
        for row in self.rows_of(service.name, is_ipv6=is_ipv6):
            cluster = row.cluster
            is_local = cluster == self._db.own
            peer = None if is_local else self._db.peers.get(cluster)
            is_kept = not with_withdrawals or service.steering.keeps_unreachable
            failing = self.failing.get(service.name, NOBODY) if is_local and service.health_probe else NOBODY
            is_withdrawn = not is_kept and peer is not None and peer.is_withdrawn
            is_withdrawn |= with_drains and cluster in self._db.drained
            for backend in self._indexes.fitting(row, port, len(service.ports)):
                is_lost = is_withdrawn or (not is_kept and backend.address in self.unreachable)
                is_lost |= bool(failing) and (backend.node, backend.address) in failing
                kept = backend._replace(is_healthy=False) if is_lost else backend
                out.append(Candidate(kept, cluster, row.cluster_id, is_local))
        return out

    def choose(
        self, service: Service, port: ServicePort, *, is_inside: bool = True, is_ipv6: bool = False
    ) -> tuple[Choice, list[Candidate]]:
        """The decision for one port and what it was made from: the same call explains it to people.

        `is_inside`: for the service's cluster addresses, else for its others. `is_ipv6`: for those of that family.

        Backends of drained clusters, of withdrawn peers and behind unreachable nodes count as unhealthy, unless that alone would
        leave nothing; then drained ones are taken before those that cannot be reached.
        """
        choice, candidates = self._choose(service, port, is_inside=is_inside, is_ipv6=is_ipv6)
        growing = self.memory.grown(service, self._clock.monotonic())
        new = sum(1 for target in targets_of_candidates(choice.chosen) if target in growing) if growing else 0
        if new:
            choice = choice._replace(reason=f"{choice.reason}; slow-start: {new} of {len(choice.chosen)} take less yet")
        return choice, candidates

    def _choose(
        self, service: Service, port: ServicePort, *, is_inside: bool, is_ipv6: bool
    ) -> tuple[Choice, list[Candidate]]:
        candidates = self.candidates(service, port, is_ipv6=is_ipv6)
        choice = self._decide(service, port, candidates, is_inside=is_inside, is_ipv6=is_ipv6)
        if not _any_healthy(choice) and self._db.drained:
            kept = self.candidates(service, port, is_ipv6=is_ipv6, with_drains=False)
            again = self._decide(service, port, kept, is_inside=is_inside, is_ipv6=is_ipv6)
            if _any_healthy(again):
                return again._replace(reason=f"{again.reason}; drained clusters are kept, nothing else is left"), kept
        if not _any_healthy(choice) and (self.unreachable or self._any_withdrawn()):
            kept = self.candidates(service, port, is_ipv6=is_ipv6, with_withdrawals=False, with_drains=False)
            again = self._decide(service, port, kept, is_inside=is_inside, is_ipv6=is_ipv6)
            if _any_healthy(again):
                reason = f"{again.reason}; unreachable nodes and withdrawn peers are kept, nothing else is left"
                if choice.chosen:  # by select, as unhealthy as they are
                    return choice._replace(reason=reason), candidates
                return again._replace(reason=reason), kept
        return choice, candidates

    def _decide(
        self, service: Service, port: ServicePort, candidates: Sequence[Candidate], *, is_inside: bool, is_ipv6: bool
    ) -> Choice:
        name = service.name
        held = self.memory.held(name, port, self._clock.monotonic(), is_inside=is_inside, is_ipv6=is_ipv6)
        unready = self.memory.unready(name, is_ipv6=is_ipv6)
        return decide(service, candidates, self.here, is_inside=is_inside, held=held, unready=unready)

    def _any_withdrawn(self) -> bool:
        return any(peer.is_withdrawn for peer in self._db.peers.rows())

    def is_consistent(self, service: Service) -> bool:
        """Whether a connection's addresses and ports decide which backend it gets."""
        return (service.algorithm or self._consistency.algorithm) is Algorithm.MAGLEV

    def targets_of(
        self,
        service: Service,
        port: ServicePort,
        mismatches: list[str],
        *,
        is_inside: bool = True,
        is_ipv6: bool = False,
    ) -> Leads:
        """What `choose` says, as slots."""
        leads = self._leads(service, port, mismatches, is_inside=is_inside, is_ipv6=is_ipv6)
        if self.is_consistent(service):
            return maglev_table(leads[0], self._consistency.table_size), leads[1]
        return leads

    def _leads(
        self, service: Service, port: ServicePort, mismatches: list[str], *, is_inside: bool, is_ipv6: bool
    ) -> Leads:
        """Sets whose backends need no looking at one by one are taken whole."""
        plain = self.plain_targets(service, port, mismatches, is_ipv6=is_ipv6)
        if plain is not None and not (is_inside and service.is_internal_local):
            return plain, ()
        choice, _ = self.choose(service, port, is_inside=is_inside, is_ipv6=is_ipv6)
        now_s = self._clock.monotonic()
        if self._db.frontends.initialized:  # before, a tier seems to lack what is not listed yet
            self.memory.note_parts(service.name, port, choice.parts, now_s, is_inside=is_inside, is_ipv6=is_ipv6)
        chosen = targets_of_candidates(choice.chosen)
        draining = (
            tuple(t for t in targets_of_candidates(choice.draining) if t not in chosen) if choice.draining else ()
        )
        weights = service.steering.weights if service.is_global else ()
        grown = self.memory.grown(service, now_s)
        return weighted(choice, chosen, weights, self._db.own, grown), draining

    def plain_targets(
        self, service: Service, port: ServicePort, mismatches: list[str], *, is_ipv6: bool = False
    ) -> tuple[Target, ...] | None:
        """The same answer as `choose` where every backend is healthy, active and without hints, None elsewhere."""
        local: Sequence[Target] = ()
        remote: list[Target] = []
        is_plain = not self.unreachable and service.steering is NO_STEERING
        is_plain = is_plain and service.name not in self.failing
        name, own, is_global, drained = port.name, self._db.own, service.is_global, self._db.drained
        for row in self.rows_of(service.name, is_ipv6=is_ipv6):
            cluster = row.cluster
            found = self._targets.of(row, port, len(service.ports))
            is_plain = is_plain and row.is_plain and cluster not in drained
            if cluster == own:
                local = found
                continue
            peer = self._db.peers.get(cluster)
            is_plain = is_plain and (peer is None or not peer.is_withdrawn)
            if is_global:
                remote += found
                if len(mismatches) < MOST_MISMATCHES and (not found or not name or row.has_unnamed):
                    problem = self._indexes.mismatch(row, port, len(service.ports))
                    if problem:
                        mismatches.append(problem)
        if not is_plain:
            return None
        if not is_global:
            return tuple(local)
        if service.affinity is Affinity.NONE:
            return (*local, *remote)
        counts = Counts(len(local), len(local), len(remote))
        use_local, use_remote, _ = sides(counts, is_global=is_global, affinity=service.affinity)
        return (*(local if use_local else ()), *(remote if use_remote else ()))


def _any_healthy(choice: Choice) -> bool:
    return any(c.backend.is_healthy for c in choice.chosen)


def targets_of_candidates(candidates: Iterable[Candidate]) -> tuple[Target, ...]:
    """One target per address and port, in order; two port names of one backend are one target."""
    return tuple(
        dict.fromkeys(Target(c.backend.address, c.backend.port, c.backend.protocol, c.cluster_id) for c in candidates)
    )
