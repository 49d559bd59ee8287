# SPDX-License-Identifier: Apache-2.0
"""Load balancing as a feature: Services of Kubernetes, the frontends they become, and their maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from agent.core import Core
from agent.feature import Compare, Feature, Reconciling, Tasks
from agent.loadbalancer.addresses import parse_ranges
from agent.loadbalancer.chooser import Consistency
from agent.loadbalancer.comparison import compare_services
from agent.loadbalancer.drained import SOURCE, DrainedSource, drained_problems
from agent.loadbalancer.events import ServiceEvents
from agent.loadbalancer.families import FamiliesTarget
from agent.loadbalancer.follower import AddressFollower
from agent.loadbalancer.known_addresses import KnownAddresses
from agent.loadbalancer.lost_sockets import LostSockets
from agent.loadbalancer.own_room import OwnRoom
from agent.loadbalancer.reselection import reselect
from agent.loadbalancer.routes import add_service_routes
from agent.loadbalancer.rows import ServiceRows
from agent.loadbalancer.source import KubernetesSource
from agent.loadbalancer.writer import LoadBalancerWriter
from agent.metric import PREFIX, gauge
from agent.tables import Frontend
from kube.client import in_thread
from kube.resource import ENDPOINT_SLICES, SERVICES, Resource
from kubeintent.service import read_service
from meshkit.reconciler import Reconciler
from meshkit.rest import Rest
from meshmodel.algorithm import Algorithm
from meshmodel.names import ServiceName


class LoadBalancerFeature(Feature):
    name = "loadbalancer"

    def __init__(self, core: Core) -> None:
        self._core = core
        ranges = parse_ranges(core.settings.external_ip_ranges)
        settings = core.settings
        self.writer = LoadBalancerWriter(
            core.db,
            ranges,
            settings.service_frontends_max,
            settings.service_backends_max,
            core.clock,
            scope=settings.services,
            consistency=Consistency(Algorithm(settings.lb_algorithm), int(settings.maglev_table_size)),
            is_dual=core.maps.of_ipv6 is not None,
        )
        owner_of = KnownAddresses(core.db).owner_of
        self.target = FamiliesTarget(core.maps, core.clock.wall, self._on_written, owner_of)
        end = partial(core.host.end_sockets, core.maps.sockets)
        self._lost_sockets = LostSockets(end, self.target.ipv4.backends.known, core.clock)
        self.target.ipv4.backends.on_gone = self._lost_sockets.add  # no socket is led by addresses of IPv6
        self._follower = AddressFollower(core.db, self.writer, self.target.backends)
        room = OwnRoom(self.writer.wanted, *self.target.capacities)
        self.source = KubernetesSource(core.db, self.writer, core.clock, room)
        self._reconciler = Reconciler(core.db.frontends, self.target, clock=core.clock, rng=core.outside.rng)
        self._lag = core.registry.histogram(
            "propagation_lag_seconds", "from a backend record's arrival at this agent to its map entries"
        )
        self._listed: dict[Resource, Callable[[], None]] = {}
        self._drained = DrainedSource(core.db, self.writer)
        self._drained_listed: Callable[[], None] = lambda: None

    def restore(self) -> int:
        return self.target.restore()

    def expect(self) -> None:
        if self._core.client is not None:
            for resource in (SERVICES, ENDPOINT_SLICES):
                self._listed[resource] = self._core.db.frontends.expect(f"kubernetes {resource.plural}")
            self._drained_listed = self._core.db.frontends.expect(SOURCE)

    def reconcilers(self) -> Sequence[Reconciling]:
        return (Reconciling("frontends", self._reconciler, (self._core.db.frontends,)),)

    def tasks(self) -> Tasks:
        client = self._core.client
        follow = {f"addresses in {table.name}": self._follower.follow(table) for table in self._follower.tables}
        follow["services that are due"] = reselect(self._core.db, self.writer, self._core.clock)
        follow["sockets to lost backends"] = self._lost_sockets.run()
        if client is None:
            return follow
        return follow | {
            "service events": ServiceEvents(self._core.db, client, self._core.clock).run(),
            "drained clusters": self._drained.run(client, self._core.settings.config_namespace, self._drained_listed),
            "services": self.source.run_services(client, self._listed[SERVICES]),
            "endpointslices": self.source.run_slices(client, self._listed[ENDPOINT_SLICES]),
        }

    def stop_waiting(self) -> Sequence[str]:
        """Without the right to read what is drained, nothing is."""
        if SOURCE not in self._core.db.frontends.waiting_for:
            return ()
        self._drained_listed()
        return (SOURCE,)

    def differences(self) -> Compare:
        rows, kept = tuple(self._core.db.frontends.rows()), self.target.kept_states()
        return partial(compare_services, self._core.maps, rows, kept)

    def doubt(self) -> None:
        self.target.doubt()

    def add_routes(self, rest: Rest) -> None:
        add_service_routes(
            rest, ServiceRows(self._core.db, self.writer, self.target, self._core.clock, self._reconciler.failure_of)
        )

    def metrics(self) -> Iterable[Metric]:
        counts: Counter[str] = Counter()
        for row in self._core.db.backends.rows():
            counts[row.cluster] += len(row.of_both_families)
        family = GaugeMetricFamily(f"{PREFIX}_backends", "backends known, by cluster", labels=["cluster"])
        for cluster, count in sorted(counts.items()):
            family.add_metric([cluster], count)
        yield family
        registries = self.target.backends
        kept, given_up_total = sum(len(r.kept) for r in registries), sum(r.given_up_total for r in registries)
        yield gauge("kept_backends", "backends that only open connections may need", kept)
        given_up = CounterMetricFamily(f"{PREFIX}_kept_backends_given_up", "kept backends that had to make room")
        given_up.add_metric([], given_up_total)
        yield given_up
        ended = CounterMetricFamily(
            f"{PREFIX}_sockets_ended", "sockets of the node that were led to backends that are gone"
        )
        ended.add_metric([], self._lost_sockets.ended_total)
        yield ended
        problems = len(self._core.db.service_problems)
        yield gauge("services_not_honoured", "services whose owner is told of a problem", problems)

    def problems(self) -> Sequence[str]:
        found = [f"service {s.name}: {p}" for s in self._core.db.services.rows() for p in s.problems]
        found += [f"service {row.service}: {p}" for row in self._core.db.service_problems.rows() for p in row.problems]
        obstacle = self._core.host.sockets_obstacle()
        if obstacle and self._core.settings.services != "none":
            found.append(f"processes of this node reach backends of this cluster only: {obstacle}")
        if self._lost_sockets.obstacle:
            found.append(
                "connections of this node's processes to pods that are gone end by their own time-outs only: "
                f"{self._lost_sockets.obstacle}"
            )
        found += [*drained_problems(self._core.db.drained), *self._drained.problems]
        return found + self.source.slice_problems()

    async def resolve(self, name: str, namespace: str) -> str | None:
        """A Service's cluster address, from what we know, else from Kubernetes. None: there is none."""
        row = self._core.db.services.get(ServiceName(namespace, name))
        if row is not None and row.addresses:
            return row.addresses[0].ip
        if self._core.client is None:
            return None
        found = await in_thread(self._core.client.get, SERVICES, name, namespace)
        service = read_service(found).row if found is not None else None
        return next(iter(service.cluster_ips), None) if service is not None else None

    def _on_written(self, row: Frontend, wall_s: float) -> None:
        if row.received_wall_s:
            self._lag.observe(max(0.0, wall_s - row.received_wall_s))
