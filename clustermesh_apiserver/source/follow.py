# SPDX-License-Identifier: Apache-2.0
"""Kubernetes → tables: one reflector per kind, and which records each kind of change concerns."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Final

from clustermesh_apiserver.convert.exporter_set import ExporterSet
from clustermesh_apiserver.identity.allocator import IdentityAllocator
from clustermesh_apiserver.problems import Problems, problems_of
from clustermesh_apiserver.source.intake import Intake
from clustermesh_apiserver.source.plan import SourcePlan
from clustermesh_apiserver.tables import IntentTable, Tables
from kube.client import KubeClient
from kube.reflector import Progress, Reflector, Timing
from kube.resource import (
    CILIUM_ENDPOINT_SLICES,
    CILIUM_ENDPOINTS,
    CILIUM_IDENTITIES,
    CILIUM_NODES,
    ENDPOINT_SLICES,
    NAMESPACES,
    NODES,
    PODS,
    SERVICE_EXPORTS,
    SERVICES,
)
from kubeintent import reader
from kubeintent.rows import (
    IdentityIntent,
    NamespaceIntent,
    ServiceIntent,
    SliceIntent,
)
from meshmodel.keys import Kind

REQUIRED_GROUPS: Final = frozenset({"", "discovery.k8s.io"})


class Source:
    """Keeps the tables equal to the cluster and tells the exporters which rows to look at."""

    def __init__(
        self,
        client: KubeClient,
        tables: Tables,
        plan: SourcePlan,
        problems: Problems,
        *,
        timing: Timing | None = None,
    ) -> None:
        self._client, self.tables, self.plan, self._problems = client, tables, plan, problems
        self._timing = timing
        self._exporters: ExporterSet | None = None
        self.allocator: IdentityAllocator | None = None
        self.progress: dict[str, Progress] = {}
        self.intakes = self._make_intakes()

    def attach(self, exporters: ExporterSet | None) -> None:
        """From now on changes go to these exporters, which look at every row there is once."""
        self._exporters = exporters
        if exporters is None:
            return
        tables = self.tables
        addresses: IntentTable[Any] = tables.endpoints if self.plan.cilium else tables.pods
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
        """The tables follow the cluster, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for intake in self.intakes:
                group.create_task(self._follow(intake), name=f"source-{intake.resource.plural}")

    async def _follow(self, intake: Intake[Any]) -> None:
        reflector: Reflector[Any] = Reflector(
            self._client,
            intake.resource,
            strip=intake.strip,
            optional=intake.resource.group not in REQUIRED_GROUPS,
            timing=self._timing,
        )
        self.progress[intake.resource.plural] = reflector.progress
        await reflector.run(intake.take)

    def _make_intakes(self) -> list[Intake[Any]]:
        tables, plan, settle = self.tables, self.plan, self.flush
        intakes: list[Intake[Any]] = [
            Intake(NAMESPACES, reader.namespace, tables.namespaces, self._namespace_changed, settle),
            Intake(SERVICES, reader.service, tables.services, self._service_changed, settle),
            Intake(ENDPOINT_SLICES, reader.endpoint_slice, tables.slices, self._slice_changed, settle),
            Intake(CILIUM_IDENTITIES, reader.cilium_identity, tables.identities, self._identity_changed, settle),
        ]
        if plan.cilium:
            intakes.append(Intake(CILIUM_NODES, reader.cilium_node, tables.nodes, self._node_changed, settle))
            kind = CILIUM_ENDPOINT_SLICES if plan.cilium_slices else CILIUM_ENDPOINTS
            read = reader.cilium_endpoint_slice if plan.cilium_slices else reader.cilium_endpoint
            intakes.append(Intake(kind, read, tables.endpoints, self._address_changed, settle))
        else:
            intakes.append(Intake(NODES, reader.node, tables.nodes, self._node_changed, settle))
            intakes.append(Intake(PODS, reader.pod, tables.pods, self._address_changed, settle))
        if plan.exports:
            intakes.append(Intake(SERVICE_EXPORTS, reader.service_export, tables.exports, self._export_changed, settle))
        return intakes

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
        if after is None:
            self._problems.forget(key)
        else:
            self._problems.set_problems(after, problems_of(after))

    def _slice_changed(self, key: str, before: SliceIntent | None, after: SliceIntent | None) -> None:
        self.touch(Kind.ENDPOINT_SLICES, (key,))
        for row in (before, after):
            if row is not None and row.service:
                self.touch(Kind.SERVICES, (f"{row.namespace}/{row.service}",))

    def _address_changed(self, key: str, _before: object, _after: object) -> None:
        self.touch(Kind.IPS, (key,))

    def _node_changed(self, key: str, _before: object, _after: object) -> None:
        self.touch(Kind.NODES, (key,))

    def _export_changed(self, key: str, _before: object, _after: object) -> None:
        self.touch(Kind.SERVICE_EXPORTS, (key,))

    def _identity_changed(self, key: str, before: IdentityIntent | None, after: IdentityIntent | None) -> None:
        self.touch(Kind.IDENTITIES, (key,))
        if self.allocator is None:
            return
        if after is not None:
            self.allocator.observe(after)
        elif before is not None:
            self.allocator.forget(before.number)
