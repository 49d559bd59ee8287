# SPDX-License-Identifier: Apache-2.0
"""Which parts this start has: kinds, cluster config, exporters. Decided here once, from the settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from clustermesh_apiserver.export_address import EndpointExporter, PodExporter
from clustermesh_apiserver.exporter import (
    Exporter,
    ExportExporter,
    IdentityExporter,
    NodeExporter,
    ServiceExporter,
    SliceExporter,
)
from clustermesh_apiserver.identity_allocator import IdentityAllocator
from clustermesh_apiserver.intent import NamespaceIntent, Pairs, PodIntent
from clustermesh_apiserver.plane import Plane
from clustermesh_apiserver.settings import Settings, SourceChoice
from clustermesh_apiserver.source import SourcePlan
from clustermesh_apiserver.tables import Tables
from kube.client import KubeClient
from kube.resource import CILIUM_ENDPOINT_SLICES, CILIUM_NODES, Resource
from kvstore.sharedstore import SharedStore
from meshkit.clock import SystemClock
from meshmodel.cluster_config import ClusterConfig, ExportMode
from meshmodel.identity import identity_range
from meshmodel.keys import Kind
from meshmodel.labels import Labels, pod_labels
from meshmodel.names import ClusterId, ClusterName

REMEMBERED_LABEL_SETS = 16_384


def kinds_of(settings: Settings) -> Sequence[Kind]:
    """What is published. Service exports are there, empty, even when they are off: readers wait for their canary."""
    kinds = [Kind.NODES, Kind.IDENTITIES, Kind.IPS, Kind.SERVICES, Kind.SERVICE_EXPORTS]
    return [*kinds, Kind.ENDPOINT_SLICES] if settings.service_export_mode is not ExportMode.SERVICES else kinds


def cluster_config(settings: Settings) -> ClusterConfig:
    """What we say about ourselves."""
    return ClusterConfig(
        id=ClusterId(settings.cluster_id),
        synced_canaries=True,
        max_connected_clusters=settings.max_connected_clusters,
        service_exports_enabled=settings.mcs_api,
        endpoint_slices_export_mode=settings.service_export_mode.value,
    )


def source_plan(settings: Settings, client: KubeClient) -> SourcePlan:
    """From what to read. Blocks; a cluster runs Cilium if Cilium has described a node of it.

    Raises: KubeError if the API server cannot be asked.
    """
    cilium = settings.source is SourceChoice.CILIUM
    if settings.source is SourceChoice.AUTO:
        cilium = _has_objects(client, CILIUM_NODES)
    slices = cilium and _has_objects(client, CILIUM_ENDPOINT_SLICES)
    return SourcePlan(cilium=cilium, cilium_slices=slices, exports=settings.mcs_api)


def make_plane(
    settings: Settings,
    plan: SourcePlan,
    tables: Tables,
    stores: Mapping[Kind, SharedStore],
    allocator: IdentityAllocator | None,
    *,
    private: Mapping[Kind, SharedStore] | None = None,
) -> Plane:
    """The exporters that fill these stores; without private ones, what peers must not know is told to nobody."""
    hidden = private or {}
    cluster, cluster_id = ClusterName(settings.cluster_name), ClusterId(settings.cluster_id)
    numbers = identity_range(settings.cluster_id, settings.max_connected_clusters)
    addresses: Exporter
    if allocator is None:
        addresses = EndpointExporter(tables, stores[Kind.IPS], hidden.get(Kind.IPS))
    else:
        addresses = PodExporter(
            tables,
            stores[Kind.IPS],
            allocator,
            labels_of(cluster),
            SystemClock().monotonic,
            private=hidden.get(Kind.IPS),
        )
    identities = IdentityExporter(
        tables,
        stores[Kind.IDENTITIES],
        cluster,
        numbers,
        lambda: addresses.is_settled,
        private=hidden.get(Kind.IDENTITIES),
    )
    exporters: dict[Kind, Exporter] = {
        Kind.NODES: NodeExporter(tables, stores[Kind.NODES], cluster, cluster_id),
        Kind.IPS: addresses,
        Kind.IDENTITIES: identities,
        Kind.SERVICES: ServiceExporter(tables, stores[Kind.SERVICES], cluster, cluster_id),
    }
    if plan.exports:
        exporters[Kind.SERVICE_EXPORTS] = ExportExporter(tables, stores[Kind.SERVICE_EXPORTS], cluster)
    else:
        stores[Kind.SERVICE_EXPORTS].mark_synced()
    if Kind.ENDPOINT_SLICES in stores:
        store = stores[Kind.ENDPOINT_SLICES]
        exporters[Kind.ENDPOINT_SLICES] = SliceExporter(tables, store, cluster, cluster_id)
    return Plane(exporters)


def labels_of(cluster: ClusterName) -> Callable[[PodIntent, NamespaceIntent], Labels]:
    """What a pod's identity is made of; remembered, as the pods of one workload share it."""

    @lru_cache(REMEMBERED_LABEL_SETS)
    def compute(labels: Pairs, namespace: str, namespace_labels: Pairs, service_account: str) -> Labels:
        return pod_labels(dict(labels), namespace, dict(namespace_labels), service_account, cluster)

    def of(pod: PodIntent, namespace: NamespaceIntent) -> Labels:
        return compute(pod.labels, pod.namespace, namespace.labels, pod.service_account)

    return of


def _has_objects(client: KubeClient, resource: Resource) -> bool:
    if not client.has(resource):
        return False
    return bool(next(client.pages(resource, limit=1))["items"])
