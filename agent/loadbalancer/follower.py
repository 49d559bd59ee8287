# SPDX-License-Identifier: Apache-2.0
"""What the load balancer does when addresses and nodes change, not services: promptly, and at the cost of what changed.

Kept backends end when their address does; a claim on an address is judged again when the address comes or goes; backends
behind a node that probes cannot reach take no new connections; backends hinted for another zone take none once this node
says which is its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final, TypeVar

from agent.loadbalancer.registry import BackendRegistry
from agent.loadbalancer.writer import LoadBalancerWriter
from agent.tables import AgentDB, Prefix, Target
from meshkit.errors import MAXIMUM_TEXT, MeshError
from meshkit.table import HistoryLostError, Table
from meshmodel.address import host_of
from meshmodel.names import ClusterName, ServiceName

log = logging.getLogger(__name__)
K = TypeVar("K")
ZONE_LABEL: Final = "topology.kubernetes.io/zone"


class AddressFollower:
    """One task per table calls `follow`; a step looks at all of them, so that no order of events matters."""

    def __init__(self, db: AgentDB, writer: LoadBalancerWriter, backends: Sequence[BackendRegistry]) -> None:
        """`backends`: of each family."""
        self._db, self._writer, self._backends = db, writer, backends
        self.tables: tuple[Table[Any, Any], ...] = (
            db.prefixes,
            db.backends,
            db.lost_nodes,
            db.nodes,
            db.failing_pods,
        )
        self._seen = dict.fromkeys((table.name for table in self.tables), 0)
        self._dead: frozenset[str] = frozenset()
        self._behind: frozenset[str] = frozenset()

    async def follow(self, table: Table[Any, Any]) -> None:
        """Until cancelled."""
        while True:
            rung = table.changed.count
            self.step()
            await table.changed.wait(rung)

    def step(self) -> None:
        """Everything that depends on what changed since the last step is judged again."""
        kept, outside = any(one.kept for one in self._backends), self._writer.outside_addresses
        prefixes = self._changed(self._db.prefixes, is_wanted=bool(kept or outside or self._dead))
        services = self._changed(self._db.backends, is_wanted=kept)
        lost = self._changed(self._db.lost_nodes, is_wanted=True)
        for backends in self._backends:
            self._judge_kept(backends, prefixes, services)
        if outside and prefixes != []:
            self._judge_claims(outside, prefixes)
        if lost is None or lost or (self._dead and prefixes is None):
            self._judge_nodes()
        elif self._dead and prefixes:
            self._judge_pods(prefixes)
        if self._changed(self._db.failing_pods, is_wanted=True) != []:
            self._judge_health()
        nodes = self._changed(self._db.nodes, is_wanted=True)
        if nodes is None or (self._db.own, self._db.node_name) in nodes:
            self._judge_zone()

    def _judge_kept(
        self,
        backends: BackendRegistry,
        prefixes: list[str] | None,
        services: list[tuple[ServiceName, ClusterName]] | None,
    ) -> None:
        if prefixes is None or services is None:
            self._check(backends.check_kept)
            return
        addresses = [address for prefix in prefixes if (address := host_of(prefix)) is not None]
        targets: set[Target] = {target for address in addresses for target in backends.kept.at_address(address)}
        targets.update(target for service, _ in services for target in backends.kept.of_service(service))
        if targets:
            self._check(lambda: backends.check_kept(sorted(targets)))

    def _judge_health(self) -> None:
        found: dict[ServiceName, set[tuple[str, str]]] = {}
        for row in self._db.failing_pods.rows():
            for name, addresses in row.failing:
                found.setdefault(name, set()).update((row.node, address) for address in addresses)
        with self._db.write():
            self._writer.set_failing({name: frozenset(pods) for name, pods in found.items()})

    def _judge_zone(self) -> None:
        """A record of this node that is gone says nothing: the zone stays."""
        own = self._db.nodes.get((self._db.own, self._db.node_name))
        if own is not None:
            with self._db.write():
                self._writer.set_zone(own.labels.get(ZONE_LABEL, ""))

    def _judge_claims(self, outside: Collection[str], prefixes: list[str] | None) -> None:
        hosts = [None] if prefixes is None else [host_of(prefix) for prefix in prefixes]
        due = set(outside) if None in hosts else set(outside).intersection(filter(None, hosts))
        if due:
            with self._db.write():
                for address in sorted(due):
                    self._writer.reconsider_address(address)

    def _judge_nodes(self) -> None:
        """Pods behind nodes that cannot be reached, by the tunnel or host their records name."""
        self._dead = frozenset(row.ip for row in self._db.lost_nodes.rows())
        rows = self._db.prefixes.rows() if self._dead else ()
        self._set_behind(frozenset(self._host(row.prefix) for row in rows if self._is_behind(row)))

    def _judge_pods(self, prefixes: Iterable[str]) -> None:
        """The same, where only these prefixes changed."""
        behind = set(self._behind)
        for prefix in prefixes:
            row = self._db.prefixes.get(prefix)
            keep = behind.add if row is not None and self._is_behind(row) else behind.discard
            keep(self._host(prefix))
        self._set_behind(frozenset(behind))

    def _is_behind(self, row: Prefix) -> bool:
        return row.host in self._dead and host_of(row.prefix) is not None

    @staticmethod
    def _host(prefix: str) -> str:
        return host_of(prefix) or prefix

    def _set_behind(self, behind: frozenset[str]) -> None:
        if behind != self._behind:
            self._behind = behind
            with self._db.write():
                self._writer.set_unreachable(behind)

    def _changed(self, table: Table[K, Any], *, is_wanted: bool) -> list[K] | None:
        """Keys that changed since the last step, None if the table has forgotten some of them."""
        seen, self._seen[table.name] = self._seen[table.name], table.revision
        if not is_wanted:
            return []
        try:
            return [change.key for change in table.changes_since(seen)]
        except HistoryLostError:
            return None

    def _check(self, check: Callable[[], int]) -> None:
        try:
            check()
        except MeshError as exc:  # the next prune looks at all of them again
            log.warning("kept backends could not be removed", extra={"error": repr(exc)[:MAXIMUM_TEXT]})
