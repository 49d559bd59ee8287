# SPDX-License-Identifier: Apache-2.0
"""What selection remembers of the past, for services that ask for it, and when it is to look at each of them again. Pure.

A new agent remembers nothing: it is where an old one gets to once nothing has changed for as long as these last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import product

from agent.loadbalancer.low_capacity import LowCapacities
from agent.loadbalancer.nearby import NOTHING_HELD
from agent.loadbalancer.newcomers import Newcomers
from agent.loadbalancer.select import TierShare
from agent.loadbalancer.weights import ALL_GROWN
from agent.tables import BackendSet, Service, ServicePort, Target
from meshmodel.names import ClusterName, ServiceName


class SelectionMemory:
    """Of each service: the least its tiers could take lately, the backends that are new, its pods that are not ready."""

    def __init__(self) -> None:
        self._low: dict[ServiceName, LowCapacities[tuple[ServicePort, bool, bool]]] = {}
        self._newcomers = Newcomers()
        self._unready: dict[tuple[ServiceName, bool], int] = {}
        self._due: dict[ServiceName, float] = {}

    # ---- what is remembered

    def knows(self, name: ServiceName) -> bool:
        """Whether the past of the service counts, or did lately."""
        return name in self._low or self._newcomers.knows(name)

    def note_service(
        self, service: Service, rows: Iterable[BackendSet], empty: Iterable[ClusterName], now_s: float
    ) -> None:
        """The service is as given. `rows`: what it has now, none of it new; `empty`: clusters known to have nothing."""
        if low := self._low.get(service.name):
            low.keep(
                {(port, inside, ipv6) for port in service.ports for inside, ipv6 in product((True, False), repeat=2)}
            )
        if not service.steering.slow_start_s:
            self._newcomers.forget(service.name)
        elif not self._newcomers.knows(service.name):
            for cluster in empty:
                self._newcomers.note(service.name, cluster, (), now_s, is_listing=True)
            for row in rows:
                self._newcomers.note(service.name, row.cluster, _targets(row), now_s, is_listing=True)

    def note_backends(
        self, name: ServiceName, cluster: ClusterName, row: BackendSet | None, now_s: float, *, is_listing: bool
    ) -> None:
        """What the cluster contributes changed."""
        if self._newcomers.knows(name):
            self._newcomers.note(name, cluster, () if row is None else _targets(row), now_s, is_listing=is_listing)

    def note_parts(
        self,
        name: ServiceName,
        port: ServicePort,
        parts: Sequence[TierShare],
        now_s: float,
        *,
        is_inside: bool,
        is_ipv6: bool = False,
    ) -> None:
        """The parts that were decided for this port of the service."""
        if parts or name in self._low:
            low = self._low.setdefault(name, LowCapacities())
            low.note((port, is_inside, is_ipv6), ((part.word, part.capacity) for part in parts), now_s)

    def note_unready(self, name: ServiceName, count: int, *, is_ipv6: bool = False) -> bool:
        """So many pods of the own cluster belong to the service and are not ready. True if it was another number."""
        before = self._unready.pop((name, is_ipv6), 0)
        if count:
            self._unready[name, is_ipv6] = count
        return count != before

    def forget(self, name: ServiceName) -> None:
        """The service is gone; its pods may be there still."""
        self._newcomers.forget(name)
        self._low.pop(name, None)
        self._due.pop(name, None)

    # ---- what a decision needs

    def held(
        self, name: ServiceName, port: ServicePort, now_s: float, *, is_inside: bool, is_ipv6: bool = False
    ) -> Mapping[str, Fraction]:
        low = self._low.get(name)
        return NOTHING_HELD if low is None else low.held((port, is_inside, is_ipv6), now_s)

    def unready(self, name: ServiceName, *, is_ipv6: bool = False) -> int:
        return self._unready.get((name, is_ipv6), 0)

    def grown(self, service: Service, now_s: float) -> Mapping[Target, Fraction]:
        window_s = service.steering.slow_start_s
        return self._newcomers.grown(service.name, window_s, now_s) if window_s else ALL_GROWN

    # ---- when to decide again

    def schedule(self, service: Service, now_s: float) -> bool:
        """The service was decided now. True if it is due some time."""
        self._due.pop(service.name, None)
        times: list[float | None] = []
        if service.name in self._low:
            times.append(self._low[service.name].due_s(now_s))
        if service.steering.slow_start_s:
            times.append(self._newcomers.due_s(service.name, service.steering.slow_start_s, now_s))
        found = [time_s for time_s in times if time_s is not None]
        if found:
            self._due[service.name] = min(found)
        return bool(found)

    def next_due_s(self) -> float | None:
        """When some service is due; None: none will be."""
        return min(self._due.values(), default=None)

    def take_due(self, now_s: float) -> list[ServiceName]:
        """Services whose time has come, each once."""
        found = sorted(name for name, due_s in self._due.items() if due_s <= now_s)
        for name in found:
            del self._due[name]
        return found


def _targets(row: BackendSet) -> Iterable[Target]:
    return (Target(b.address, b.port, b.protocol, row.cluster_id) for b in row.of_both_families)
