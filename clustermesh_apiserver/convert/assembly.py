# SPDX-License-Identifier: Apache-2.0
"""Which exporters there are, and what each of them is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

from clustermesh_apiserver.convert.address_exporter import AddressExporter, Allocator
from clustermesh_apiserver.convert.confirmations import Confirmations
from clustermesh_apiserver.convert.exporter import (
    Exporter,
    ExportExporter,
    IdentityExporter,
    NodeExporter,
    ServiceExporter,
    Sink,
    SliceExporter,
)
from clustermesh_apiserver.convert.exporter_set import ExporterSet
from clustermesh_apiserver.settings import ApiserverSettings
from clustermesh_apiserver.tables import Tables
from kubeintent.rows import NamespaceIntent, Pairs, PodIntent
from meshkit.clock import Clock, SystemClock
from meshmodel.identity import identity_range
from meshmodel.keys import Kind
from meshmodel.labels import Labels, pod_labels
from meshmodel.names import ClusterId, ClusterName

REMEMBERED_LABEL_SETS = 16_384
SYSTEM_CLOCK: Final = SystemClock()


def make_exporters(
    settings: ApiserverSettings,
    tables: Tables,
    stores: Mapping[Kind, Sink],
    allocator: Allocator,
    *,
    private: Mapping[Kind, Sink] | None = None,
    clock: Clock = SYSTEM_CLOCK,
    confirmations: Confirmations | None = None,
) -> ExporterSet:
    """The exporters that fill these stores; without private ones, records of namespaces that are not global go nowhere.

    Without `confirmations` every pod is announced as soon as it has an address.
    """
    hidden, now = private or {}, clock.monotonic
    cluster, cluster_id = ClusterName(settings.cluster_name), ClusterId(settings.cluster_id)
    numbers = identity_range(settings.cluster_id, settings.max_connected_clusters)
    addresses = AddressExporter(
        tables,
        stores[Kind.IPS],
        allocator,
        labels_of(cluster),
        numbers,
        now=now,
        private=hidden.get(Kind.IPS),
        confirmations=confirmations,
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
        Kind.NODES: NodeExporter(tables, stores[Kind.NODES], cluster, cluster_id, now=now, by_hand=settings.pod_cidr),
        Kind.IPS: addresses,
        Kind.IDENTITIES: identities,
        Kind.SERVICES: ServiceExporter(tables, stores[Kind.SERVICES], cluster, cluster_id, confirmations),
    }
    if settings.mcs_api:
        exporters[Kind.SERVICE_EXPORTS] = ExportExporter(tables, stores[Kind.SERVICE_EXPORTS], cluster)
    else:
        stores[Kind.SERVICE_EXPORTS].mark_synced()
    if Kind.ENDPOINT_SLICES in stores:
        store = stores[Kind.ENDPOINT_SLICES]
        exporters[Kind.ENDPOINT_SLICES] = SliceExporter(tables, store, cluster, cluster_id, confirmations)
    return ExporterSet(exporters)


def labels_of(cluster: ClusterName) -> Callable[[PodIntent, NamespaceIntent], Labels]:
    """What a pod's identity is made of; remembered, as the pods of one workload share it."""

    @lru_cache(REMEMBERED_LABEL_SETS)
    def compute(labels: Pairs, namespace: str, namespace_labels: Pairs, service_account: str) -> Labels:
        return pod_labels(dict(labels), namespace, dict(namespace_labels), service_account, cluster)

    def of(pod: PodIntent, namespace: NamespaceIntent) -> Labels:
        return compute(pod.labels, pod.namespace, namespace.labels, pod.service_account)

    return of
