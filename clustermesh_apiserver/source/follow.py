# SPDX-License-Identifier: Apache-2.0
"""Kubernetes → tables: one reflector per kind that is read, and which records each kind of change concerns."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from clustermesh_apiserver.convert.confirmations import Confirmations
from clustermesh_apiserver.convert.exporter_set import ExporterSet
from clustermesh_apiserver.identity.allocator import IdentityAllocator
from clustermesh_apiserver.problems import BAD_ANNOTATION, Problems, Subject, problems_of
from clustermesh_apiserver.source.intake import Intake
from clustermesh_apiserver.source.plan import SourcePlan
from clustermesh_apiserver.tables import IntentTable, Tables
from kube.client import KubeClient, in_thread
from kube.errors import KubeError
from kube.reflector import Progress, Reflector, Timing
from kube.resource import (
    CALICO_IPAM_BLOCKS,
    CILIUM_ENDPOINT_SLICES,
    CILIUM_ENDPOINTS,
    CILIUM_IDENTITIES,
    CILIUM_NODES,
    ENDPOINT_SLICES,
    LEASES,
    NAMESPACES,
    NODES,
    PODS,
    SERVICE_EXPORTS,
    SERVICES,
    KubeObject,
    Resource,
)
from kubeintent.cilium import read_cilium_endpoint, read_cilium_endpoint_slice, read_cilium_identity
from kubeintent.confirmation import AgentWord, read_agent_lease
from kubeintent.endpoint_slice import read_endpoint_slice
from kubeintent.node import read_calico_block, read_cilium_node, read_node
from kubeintent.pod import read_namespace, read_pod
from kubeintent.read import Read
from kubeintent.rows import (
    BlockIntent,
    HealthIntent,
    IdentityIntent,
    NamespaceIntent,
    NodeIntent,
    PodIntent,
    ServiceIntent,
    SliceIntent,
)
from kubeintent.service import read_service
from kubeintent.service_export import read_service_export
from meshapi.installed import AGENT_SELECTOR, DEFAULT_NAMESPACE
from meshkit.backoff import Backoff
from meshkit.clock import Clock, SystemClock
from meshkit.errors import PermanentError
from meshkit.task_group import TaskGroup
from meshmodel.keys import Kind

log = logging.getLogger(__name__)

T = TypeVar("T")

RECHECK_S: Final = 30.0
BACKOFF_S: Final = (0.5, 15.0)
NOT_WAITED_FOR: Final = frozenset({CALICO_IPAM_BLOCKS.plural, LEASES.plural})
"""Kinds whose listing readiness does not wait for: they make records better, and may be forbidden to us."""
REQUIRED_GROUPS: Final = frozenset({"", "discovery.k8s.io"})


class Source:
    """Keeps the tables equal to the cluster and tells the exporters which rows to look at.

    `choose` says what to read, given what is read so far; it blocks, and is asked again every `RECHECK_S` seconds.
    `default_global`: whether a namespace that does not say is global. The agents' Leases are in `namespace`. `allocator`
    is told of every identity there is; without one, identities are read only.
    """

    def __init__(
        self,
        client: KubeClient,
        tables: Tables,
        problems: Problems,
        choose: Callable[[SourcePlan | None], SourcePlan],
        *,
        default_global: bool = True,
        namespace: str = DEFAULT_NAMESPACE,
        confirmations: Confirmations | None = None,
        allocator: IdentityAllocator | None = None,
        timing: Timing | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._rng = rng
        self._client, self.tables, self._problems, self._choose = client, tables, problems, choose
        self._default_global, self._namespace = default_global, namespace
        self._confirmations, self._allocator = confirmations, allocator
        if confirmations is not None:
            confirmations.on_news = self.touch
        self._timing, self._clock = timing, clock or SystemClock()
        self._exporters: ExporterSet | None = None
        self._tasks: dict[Resource, asyncio.Task[None]] = {}
        self.plan: SourcePlan | None = None
        self.intakes: list[Intake[Any]] = []
        self.progress: dict[str, Progress] = {}

    @property
    def name(self) -> str:
        """What is read, for people: cilium, pods, or nothing yet."""
        return "" if self.plan is None else "cilium" if self.plan.cilium else "pods"

    def attach(self, exporters: ExporterSet | None) -> None:
        """From now on changes go to these exporters, which look at every row there is once."""
        self._exporters = exporters
        if exporters is None:
            return
        tables = self.tables
        addresses: IntentTable[Any] = tables.endpoints if tables.is_cilium else tables.pods
        everything: Sequence[tuple[Kind, IntentTable[Any]]] = (
            (Kind.NODES, tables.nodes),
            (Kind.IDENTITIES, tables.identities),
            (Kind.IPS, addresses),
            (Kind.SERVICES, tables.services),
            (Kind.ENDPOINT_SLICES, tables.slices),
            (Kind.SERVICE_EXPORTS, tables.exports),
        )
        for kind, table in everything:
            exporters.touch(kind, table.keys())
        exporters.flush()

    async def run(self) -> None:
        """The tables follow the cluster, until cancelled; what is read follows what the cluster runs."""
        await self._first_plan()
        async with TaskGroup() as group:
            while True:
                await self._start_and_stop(group)
                await self._clock.sleep(RECHECK_S)
                try:
                    plan = await in_thread(self._choose, self.plan)
                except KubeError:
                    continue  # the reflectors say that the API server is away
                self.set_plan(plan)

    def set_plan(self, plan: SourcePlan) -> None:
        """These kinds are read. What was published stays until the listings of another plan are complete."""
        before, self.plan = self.plan, plan
        if plan == before:
            return
        log.info("source chosen", extra={"reason": self.name, "key": "slices" if plan.cilium_slices else "endpoints"})
        tables = self.tables
        tables.is_cilium = plan.cilium
        if before is not None:
            tables.endpoints.begin_again(tables.pods.keys())
            if before.cilium != plan.cilium:
                tables.nodes.begin_again()
                tables.pods.clear()
                tables.blocks.clear()
        known = {intake.resource: intake for intake in self.intakes}
        self.intakes = [known.get(intake.resource, intake) for intake in self._make_intakes(plan)]

    async def _first_plan(self) -> None:
        backoff = Backoff(*BACKOFF_S, self._rng)
        while self.plan is None:
            try:
                self.set_plan(await in_thread(self._choose, None))
            except KubeError as exc:
                if isinstance(exc, PermanentError):
                    raise
                delay_s = backoff.next()
                log.warning("kubernetes not reached, retrying", extra={"error": str(exc), "delay_s": round(delay_s, 2)})
                await self._clock.sleep(delay_s)

    async def _start_and_stop(self, group: TaskGroup) -> None:
        """One task for each kind of the plan, and no other."""
        wanted = {intake.resource: intake for intake in self.intakes}
        for resource in [each for each in self._tasks if each not in wanted]:
            task = self._tasks.pop(resource)
            task.cancel()
            await asyncio.wait([task])
            self.progress.pop(resource.plural, None)
            self._problems.forget_kind(resource)
        for resource in [each for each in wanted if each not in self._tasks]:
            follow = self._follow(wanted[resource])
            self._tasks[resource] = group.create_task(follow, name=f"source-{resource.plural}")

    async def _follow(self, intake: Intake[Any]) -> None:
        reflector: Reflector[Any] = Reflector(
            self._client,
            intake.resource,
            strip=intake.strip,
            namespace=self._namespace if intake.resource is LEASES else None,
            label_selector=AGENT_SELECTOR if intake.resource is LEASES else "",
            optional=intake.resource.group not in REQUIRED_GROUPS,
            timing=self._timing,
        )
        self.progress[intake.resource.plural] = reflector.progress
        await reflector.run(intake.take)

    def _make_intakes(self, plan: SourcePlan) -> list[Intake[Any]]:
        tables = self.tables
        namespace = partial(read_namespace, default_global=self._default_global)
        intakes: list[Intake[Any]] = [
            self._intake(NAMESPACES, namespace, tables.namespaces, self._namespace_changed),
            self._intake(SERVICES, read_service, tables.services, self._service_changed),
            self._intake(ENDPOINT_SLICES, read_endpoint_slice, tables.slices, self._slice_changed),
            self._intake(CILIUM_IDENTITIES, read_cilium_identity, tables.identities, self._identity_changed),
        ]
        if plan.cilium:
            intakes.append(self._intake(CILIUM_NODES, read_cilium_node, tables.nodes, self._node_changed))
            kind = CILIUM_ENDPOINT_SLICES if plan.cilium_slices else CILIUM_ENDPOINTS
            read = read_cilium_endpoint_slice if plan.cilium_slices else read_cilium_endpoint
            intakes.append(self._intake(kind, read, tables.endpoints, self._address_changed))
        else:
            intakes.append(self._intake(NODES, read_node, tables.nodes, self._node_changed))
            intakes.append(self._intake(PODS, read_pod, tables.pods, self._pod_changed))
            intakes.append(self._intake(CALICO_IPAM_BLOCKS, read_calico_block, tables.blocks, self._block_changed))
            if self._confirmations is not None:
                taken = self._confirmation_changed
                intakes.append(self._intake(LEASES, read_agent_lease, tables.confirmations, taken))
        if plan.exports:
            intakes.append(self._intake(SERVICE_EXPORTS, read_service_export, tables.exports, self._export_changed))
        return intakes

    def _intake(
        self,
        resource: Resource,
        read: Callable[[KubeObject], Read[T]],
        table: IntentTable[T],
        changed: Callable[[str, T | None, T | None], None],
    ) -> Intake[T]:
        return Intake(resource, read, table, changed, settle=self.flush, problems=self._problems)

    def flush(self) -> None:
        if self._exporters is not None:
            self._exporters.flush()

    def touch(self, kind: Kind, rows: Iterable[str]) -> None:
        if self._exporters is not None:
            self._exporters.touch(kind, rows)

    # ---- which records a change concerns

    def _namespace_changed(self, key: str, _before: object, after: NamespaceIntent | None) -> None:
        if self._exporters is not None and after is not None:
            self._exporters.touch_namespace(key)

    def _service_changed(self, key: str, _before: object, after: ServiceIntent | None) -> None:
        self.touch(Kind.SERVICES, (key,))
        self.touch(Kind.SERVICE_EXPORTS, (key,))
        self.touch(Kind.ENDPOINT_SLICES, self.tables.slices.in_group(key))
        found = problems_of(after) if after is not None else ()
        if after is not None and (found or self._problems.knows(SERVICES, key)):
            self._problems.set_problems(Subject(SERVICES, key, after.uid), BAD_ANNOTATION, found)

    def _slice_changed(self, key: str, before: SliceIntent | None, after: SliceIntent | None) -> None:
        self.touch(Kind.ENDPOINT_SLICES, (key,))
        for row in (before, after):
            if row is not None and row.service:
                self.touch(Kind.SERVICES, (f"{row.namespace}/{row.service}",))

    def _address_changed(self, key: str, _before: object, _after: object) -> None:
        self.touch(Kind.IPS, (key,))

    def _pod_changed(self, key: str, before: PodIntent | None, after: PodIntent | None) -> None:
        if self._confirmations is not None:
            self._confirmations.pod_changed(key, before, after)
        self.touch(Kind.IPS, (key,))
        if before is None or after is None or (before.node, before.ips) != (after.node, after.ips):
            self.touch(Kind.NODES, (row.node for row in (before, after) if row is not None and row.node))

    def _block_changed(self, _key: str, before: BlockIntent | None, after: BlockIntent | None) -> None:
        if len(self.tables.blocks) <= 1:  # the first or the last block says how all nodes are to be read
            self.touch(Kind.NODES, self.tables.nodes.keys())
        self.touch(Kind.NODES, (row.node for row in (before, after) if row is not None))

    def _confirmation_changed(self, _key: str, before: AgentWord | None, after: AgentWord | None) -> None:
        if isinstance(before, HealthIntent) or isinstance(after, HealthIntent):
            rows = (row for row in (before, after) if isinstance(row, HealthIntent))
            for service in {str(name) for row in rows for name, _ in row.failing}:
                self.touch(Kind.SERVICES, (service,))
                self.touch(Kind.ENDPOINT_SLICES, self.tables.slices.in_group(service))
        elif self._confirmations is not None:
            self._confirmations.confirmation_changed(before, after)

    def _node_changed(self, key: str, before: NodeIntent | None, after: NodeIntent | None) -> None:
        if self._confirmations is not None:
            self._confirmations.node_changed(key, before, after)
        self.touch(Kind.NODES, (key,))
        if before is not None and after is not None and before.addresses != after.addresses:
            self.touch(Kind.IPS, self.tables.pods.on_node(key))

    def _export_changed(self, key: str, _before: object, _after: object) -> None:
        self.touch(Kind.SERVICE_EXPORTS, (key,))

    def _identity_changed(self, key: str, before: IdentityIntent | None, after: IdentityIntent | None) -> None:
        self.touch(Kind.IDENTITIES, (key,))
        if self._allocator is None:
            return
        if after is not None:
            self._allocator.observe(after)
        elif before is not None:
            self._allocator.forget(before.number)
