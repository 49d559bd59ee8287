# SPDX-License-Identifier: Apache-2.0
"""Kubernetes → tables: one reflector per kind, and which records each kind of change concerns."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from clustermesh_apiserver import strip
from clustermesh_apiserver.feed import Feed
from clustermesh_apiserver.identity_allocator import IdentityAllocator
from clustermesh_apiserver.intent import (
    IdentityIntent,
    NamespaceIntent,
    ServiceIntent,
    SliceIntent,
)
from clustermesh_apiserver.plane import Plane
from clustermesh_apiserver.problems import Problems, problems_of
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
from meshmodel.keys import Kind

REQUIRED_GROUPS: Final = frozenset({"", "discovery.k8s.io"})


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """Which kinds are read. `cilium` from Cilium's objects, else from pods and nodes."""

    cilium: bool
    cilium_slices: bool = False
    exports: bool = False


class Source:
    """Keeps the tables equal to the cluster and tells the plane which rows to look at."""

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
        self._plane: Plane | None = None
        self.allocator: IdentityAllocator | None = None
        self.progress: dict[str, Progress] = {}
        self.feeds = self._make_feeds()

    def attach(self, plane: Plane | None) -> None:
        """From now on changes go to this plane, which looks at every row there is once."""
        self._plane = plane
        if plane is None:
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
            plane.touch(kind, table.keys())
        plane.flush()

    async def run(self) -> None:
        """The tables follow the cluster, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for feed in self.feeds:
                group.create_task(self._follow(feed), name=f"source-{feed.resource.plural}")

    async def _follow(self, feed: Feed[Any]) -> None:
        reflector: Reflector[Any] = Reflector(
            self._client,
            feed.resource,
            strip=feed.strip,
            optional=feed.resource.group not in REQUIRED_GROUPS,
            timing=self._timing,
        )
        self.progress[feed.resource.plural] = reflector.progress
        await reflector.run(feed.take)

    def _make_feeds(self) -> list[Feed[Any]]:
        tables, plan, settle = self.tables, self.plan, self.flush
        feeds: list[Feed[Any]] = [
            Feed(NAMESPACES, strip.namespace, tables.namespaces, self._namespace_changed, settle),
            Feed(SERVICES, strip.service, tables.services, self._service_changed, settle),
            Feed(ENDPOINT_SLICES, strip.endpoint_slice, tables.slices, self._slice_changed, settle),
            Feed(CILIUM_IDENTITIES, strip.cilium_identity, tables.identities, self._identity_changed, settle),
        ]
        if plan.cilium:
            feeds.append(Feed(CILIUM_NODES, strip.cilium_node, tables.nodes, self._node_changed, settle))
            kind = CILIUM_ENDPOINT_SLICES if plan.cilium_slices else CILIUM_ENDPOINTS
            read = strip.cilium_endpoint_slice if plan.cilium_slices else strip.cilium_endpoint
            feeds.append(Feed(kind, read, tables.endpoints, self._address_changed, settle))
        else:
            feeds.append(Feed(NODES, strip.node, tables.nodes, self._node_changed, settle))
            feeds.append(Feed(PODS, strip.pod, tables.pods, self._address_changed, settle))
        if plan.exports:
            feeds.append(Feed(SERVICE_EXPORTS, strip.service_export, tables.exports, self._export_changed, settle))
        return feeds

    def flush(self) -> None:
        if self._plane is not None:
            self._plane.flush()

    def touch(self, kind: Kind, rows: Iterable[str]) -> None:
        if self._plane is not None:
            self._plane.touch(kind, rows)

    # ---- which records a change concerns

    def _namespace_changed(self, key: str, _before: object, after: NamespaceIntent | None) -> None:
        if self._plane is not None and after is not None:
            self._plane.touch_namespace(key)

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
