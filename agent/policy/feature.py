# SPDX-License-Identifier: Apache-2.0
"""Network policies as a feature: policy objects, the verdicts for this node's pods, and their maps and attachments."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from agent.core import Core
from agent.feature import Compare, Feature, Reconciling, Tasks
from agent.policy.comparison import compare_endpoints
from agent.policy.compiler import PolicyCompiler
from agent.policy.host import HostGuard
from agent.policy.nodes import NodeFollower, NodeKey, NodeVerbs
from agent.policy.ops import EndpointTarget
from agent.policy.ranges import WriteProgress
from agent.policy.reach import HostReach
from agent.policy.routes import add_policy_routes
from agent.policy.rows import describe_widening, engine_faults, policy_problems
from agent.policy.shortfall import find_shortfalls, with_limits
from agent.policy.source import PolicySource
from agent.policy.takeover import take_over_ranges
from agent.tables import THE_NODE, Identity
from kube.resource import POLICY_RESOURCES, Resource
from meshapi.agent import NOT_ENFORCED, MapDifference
from meshkit.errors import MeshError
from meshkit.health import Health
from meshkit.reconciler import Outcome, Reconciler
from meshkit.rest import Rest
from meshkit.table import HistoryLostError, Table
from meshkit.wake import Wake, wait_for_ring
from meshmodel.identity import is_of_range
from meshmodel.names import ClusterName
from meshpolicy import PolicyContext
from meshpolicy.prefix import Cidr
from meshpolicy.proxy_ports import ProxyPorts
from meshpolicy.range_shares import LIMITS

GATHER_S = 0.002
LOOK_S = 0.5
ADDRESSES_S = 0.02
LOOK_SHARE = 100
SHORTFALL_S = 1.0
_ENFORCEMENT = "policy enforcement"
_ENGINE = "policy engine"
_NODE_PROGRAMS = "node programs"

log = logging.getLogger(__name__)


def _who(address: str) -> str:
    return "the node" if address == THE_NODE.address else f"pod {address}"


class Neighbours(NamedTuple):
    """What policies need of other features: identities of CIDR rules and of nodes go into their tables."""

    set_prefixes: Callable[[Mapping[str, int]], None]
    set_node_identities: Callable[[Mapping[NodeKey, int]], None]
    are_addresses_written: Callable[[], bool]
    set_identity: Callable[[Identity], None]
    delete_identity: Callable[[int], None]
    have_addresses_begun: Callable[[], bool]


class PolicyFeature(Feature):
    """Which pods, and this node, are enforced as which policies say."""

    name = "policy"

    def __init__(
        self,
        core: Core,
        neighbours: Neighbours,
        proxy_ports: ProxyPorts | None = None,
    ) -> None:
        self._cpu_s, self._are_addresses_written = core.outside.cpu_s, neighbours.are_addresses_written
        self._core, self._wake, self._interfaces = core, Wake(), Wake()
        context = PolicyContext(
            core.facts.cluster,
            core.facts.default_local_cluster,
            proxy_ports=proxy_ports,
            ipv6=core.settings.ipv6,
        )
        self.proxy_failures: Callable[[], Mapping[str, str]] = dict
        """Pods of which a port is closed because its proxy is not there."""
        verbs = NodeVerbs(
            neighbours.set_identity,
            neighbours.delete_identity,
            neighbours.set_node_identities,
            lambda: self._reconciler.is_written,
            neighbours.are_addresses_written,
        )
        nodes = NodeFollower(core.db, verbs)
        progress = WriteProgress(
            lambda: neighbours.have_addresses_begun() and core.db.prefixes.initialized,
            lambda: self._reconciler.has_begun and self._reconciler.is_written,
            neighbours.are_addresses_written,
        )
        server = core.client.server if core.client is not None else ""
        self._host_guard = HostGuard(core.db, core.settings, server, core.clock, core.outside.resolve)
        self.compiler = PolicyCompiler(
            core.db,
            context,
            neighbours.set_prefixes,
            nodes,
            self._host_guard.facts,
            progress=progress,
            entries_per_pod=core.settings.policy_entries_per_pod,
            map_entries=core.settings.policy_entries,
            range_limits=LIMITS._replace(of_namespace=core.settings.policy_ranges_per_namespace),
        )
        self._reach = HostReach(core.db, core.host, core.clock)
        self.target = EndpointTarget(core.maps, core.host, core.settings.policy_entries_per_pod)
        self.enforced = Wake()
        """Rings when what is enforced may have changed."""
        self.moved = Wake()
        """Rings when `are_in_force` may say something else."""
        self._reconciler = Reconciler(
            core.db.verdicts, self.target, clock=core.clock, rng=core.outside.rng, on_outcome=self._hear_outcome
        )
        self._node_failure = self._pin_failure = ""
        self._listed: dict[Resource, Callable[[], None]] = {}

    def restore(self) -> int:
        found = self.target.restore()
        if THE_NODE.address in found:
            self.compiler.restore_node()
        held = (key.prefix for key, value in self._core.maps.ipcache.items() if is_of_range(value.identity))
        self.compiler.restore_prefixes(sorted(held))
        return len(found)

    def expect(self) -> None:
        if self._core.client is not None:
            for resource in POLICY_RESOURCES:
                self._listed[resource] = self._expect(resource)

    def before_addresses(self) -> None:
        """Addresses are written from now on; verdicts follow when they all are."""
        self.compiler.step()
        take_over_ranges(self.target, self._core.maps.ipcache, self._core.db.prefixes.rows())

    def reconcilers(self) -> Sequence[Reconciling]:
        """Pods of this node are never enforced by half of what we will know, also on a node that was empty."""
        db = self._core.db
        tables = (db.verdicts, db.prefixes, db.endpoints, db.frontends)  # the last for rules that name Services
        return (Reconciling("endpoints", self._reconciler, tables, always_waits=True, before_first=self.compiler.step),)

    def tasks(self) -> Tasks:
        core = self._core
        tasks = {f"policy input {t.name}": self._forward(t) for t in self._inputs()}
        tasks["policies"] = self._follow()
        tasks["host reach"] = self._reach.follow(self.enforced.set)
        tasks["host guard"] = self._host_guard.follow(self.ring)
        tasks["attachments"] = self._keep_attached()
        tasks["attachment changes"] = self._hear()
        if core.client is not None:
            source = PolicySource(core.client, self.compiler, self._wake.set, core.clock, core.facts.node)
            tasks["policy shortfalls"] = self._tell_shortfalls(source)
            tasks["policy reports"] = source.report()
            for resource in POLICY_RESOURCES:
                tasks[resource.plural] = source.run(resource, self._listed[resource])
        return tasks

    def _inputs(self) -> Sequence[Table[Any, Any]]:
        db = self._core.db
        return (db.identities, db.endpoints, db.prefixes, db.labelled_services, db.backends, db.nodes)

    def _hear_outcome(self, _outcome: Outcome) -> None:
        self.enforced.set()
        self.moved.set()
        if self.compiler.waits_for_verdicts:
            self._wake.set()

    def hear_addresses(self) -> None:
        """Addresses were written: what waits for it goes on."""
        if self.compiler.waits_for_addresses:
            self._wake.set()

    def are_in_force(self, addresses: Iterable[Cidr]) -> bool:
        """Whether these addresses have their identities in the kernel, and the verdicts that know them are there too."""
        return self._reconciler.is_written and self.compiler.have_identities(addresses)

    async def _tell_shortfalls(self, source: PolicySource) -> None:
        """Policy objects say that they are not enforced as written for a pod of this node, until they are."""
        seen = 0
        while True:
            rung, seen = self.enforced.count, self._say_rows(source, seen)
            failures = {**self.proxy_failures(), **self.target.failures, **self.compiler.closed_endpoints()}
            failures = with_limits(failures, self._reach.limits())
            source.set_shortfalls(find_shortfalls(self._core.db, self.compiler.engine, failures))
            if not source.is_behind:
                await self.enforced.wait(rung)
            await self._core.clock.sleep(SHORTFALL_S)

    def _say_rows(self, source: PolicySource, seen: int) -> int:
        """Policies whose rows changed after the revision `seen` are told if they were not; returns the revision now."""
        policies = self._core.db.policies
        try:
            rows = [
                change.row for change in policies.changes_since(0 if source.is_behind else seen) if not change.deleted
            ]
        except HistoryLostError:
            rows = list(policies.rows())
        source.say_again(rows)
        return policies.revision

    def ring(self) -> None:
        """Documents were given to the compiler: a step is due, and others while they wait."""
        self._wake.set()

    def describe_widening(self, drained: Mapping[ClusterName, tuple[str, ...]]) -> list[str]:
        """What rules for addresses admit since clusters with these pod networks are no peers any more."""
        return describe_widening(self.compiler.engine.policies(), drained)

    def add_routes(self, rest: Rest) -> None:
        add_policy_routes(rest, self._core.db, self.compiler, self._core.maps.policy, self._reach.limits)

    def differences(self) -> Compare:
        core = self._core
        rows, share = core.db.verdicts.rows(), core.settings.policy_entries_per_pod
        found = [*compare_endpoints(core.maps, core.host, rows, share), *self._node_differences()]
        return lambda: found

    def doubt(self) -> None:
        """Lost pins and attachments are made again at once: pods' by the target, the node's own here."""
        self._reattach()

    def problems(self) -> Sequence[str]:
        found = policy_problems(self._core.db, self.compiler.engine) + engine_faults(self.compiler.faults)
        found += [*self.compiler.node_problems(), *filter(None, [self.compiler.staged.fault])]
        found += [f"{NOT_ENFORCED}host policies: {limit}" for limit in self._reach.limits()]
        failed = sorted(self.target.failures.items())
        return found + [f"{_who(address)}: {reason}" for address, reason in failed]

    def check_health(self, health: Health) -> None:
        """Enforcement is FAILED while a pod's policy is not in force as it says: the pod is denied what did not fit.

        The engine is DEGRADED while something is kept closed because the engine failed on it.
        """
        if faults := engine_faults(self.compiler.faults):
            health.degraded(_ENGINE, f"{len(faults)} kept closed; {faults[0]}")
        else:
            health.ok(_ENGINE)
        failures = self.target.failures
        if failures:
            first = min(failures)
            health.failed(
                _ENFORCEMENT, f"{len(failures)} pods are not enforced as their policies say; {first}: {failures[first]}"
            )
        else:
            health.ok(_ENFORCEMENT)
        if self._node_failure:
            health.failed(_NODE_PROGRAMS, f"overlay or underlay device without our program: {self._node_failure}")
        elif self._pin_failure:
            health.failed(_NODE_PROGRAMS, f"maps or programs without their pins: {self._pin_failure}")
        else:
            health.ok(_NODE_PROGRAMS)

    def _expect(self, resource: Resource) -> Callable[[], None]:
        """Verdicts and prefixes wait for the first listing of this kind; call what is returned when it is complete."""
        tables = (self._core.db.verdicts, self._core.db.prefixes)
        parts = [table.expect(f"kubernetes {resource.plural}") for table in tables]

        def done() -> None:
            self.compiler.step()
            for part in parts:
                part()

        return done

    def _node_differences(self) -> list[MapDifference]:
        host, what = self._core.host, "missing: the interface does not run our program"
        lost = [MapDifference("attachments", place, what) for place in host.unattached_node(is_filled=True)]
        gone = "missing: what is in use would end with the agent"
        return lost + [MapDifference("pins", path, gone) for path in host.unpinned()]

    def _reattach(self) -> None:
        """Everything that is in use is pinned, and runs where it should; pins first, since links need their directory."""
        self._pin_again()
        self.target.reattach()
        self._reattach_node()

    def _pin_again(self) -> None:
        try:
            lost = self._core.host.unpinned()
            if lost:
                self._core.host.pin_again()
                log.warning("maps or programs lost their pins, pinned again", extra={"key": ", ".join(lost)})
        except (MeshError, OSError) as exc:
            self._pin_failure = str(exc)
        else:
            self._pin_failure = ""

    def _reattach_node(self) -> None:
        """The overlay and underlay devices run our programs; why they do not is kept for the health report.

        Those of a former agent go on until the addresses are listed and written: maps that could not be taken over are
        empty before, and a program that knows no address drops everything.
        """
        host, is_filled = self._core.host, not self._core.db.prefixes.waiting_for and self._are_addresses_written()
        try:
            lost = host.unattached_node(is_filled=is_filled)
            if lost:
                host.attach_node(is_filled=is_filled)
                log.warning("device lost its program, attached again", extra={"key": ", ".join(lost)})
        except (MeshError, OSError) as exc:
            self._node_failure = str(exc)
        else:
            self._node_failure = ""

    async def _hear(self) -> None:
        async for changes in self._core.host.changes():
            if changes.gone or changes.is_all:
                self._interfaces.set()

    async def _keep_attached(self) -> None:
        """Interfaces that lost our programs have them again: at once where an interface went, else within a second.

        Nobody tells of a program that was taken off, so this looks; on a node with so many pods that looking would take more
        than a hundredth of a CPU, less often. A machine that is busy otherwise is no reason to look less often.
        """
        clock = self._core.clock
        while True:
            rung, began_s = self._interfaces.count, self._cpu_s()
            self._reattach()
            delay_s = max(LOOK_S, LOOK_SHARE * (self._cpu_s() - began_s))
            await wait_for_ring(self._interfaces, rung, delay_s, clock)

    async def _forward(self, table: Table[Any, Any]) -> None:
        while True:
            await table.changed.wait()
            self._wake.set()

    async def _follow(self) -> None:
        told = 0
        while True:
            rung = self._wake.count
            self.compiler.step()
            self.moved.set()
            if self._core.db.policies.revision != told:
                told = self._core.db.policies.revision
                self.enforced.set()
            if self.compiler.waits_for_addresses:  # an agent that does not write them yet rings nothing
                await wait_for_ring(self._wake, rung, ADDRESSES_S, self._core.clock)
            else:
                await self._wake.wait(rung)
            await self._core.clock.sleep(GATHER_S)
