# SPDX-License-Identifier: Apache-2.0
"""Metrics, read from the parts when somebody asks. Names: those of Cilium's exporter under our prefix, and our own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric

from clustermesh_apiserver.parts import Apiserver
from clustermesh_apiserver.status.program_status import VERSION, refused
from meshkit.metrics import Registry
from meshmodel.keys import Kind

PREFIX: Final = "clustermesh_apiserver"
SCOPED: Final = ("scope", "source_cluster")


def make_registry(apiserver: Apiserver) -> Registry:
    """The registry of this program."""
    registry = Registry(PREFIX)
    registry.add_source(lambda: collect(apiserver))
    return registry


def collect(apiserver: Apiserver) -> Iterable[Metric]:
    """Every metric as it is now."""
    yield InfoMetricFamily(PREFIX, "this program", value={"version": VERSION})
    yield from _stores(apiserver)
    yield from _identities(apiserver)
    expiry = GaugeMetricFamily(
        f"{PREFIX}_certificate_expiry_timestamp_seconds", "end of a certificate", labels=("cluster", "kind")
    )
    if apiserver.facade_server.not_after_s:
        expiry.add_metric((apiserver.settings.cluster_name, "server"), apiserver.facade_server.not_after_s)
    yield expiry
    facade = apiserver.facade_server.facade
    sessions = GaugeMetricFamily(f"{PREFIX}_facade_clients", "connections with an open call", labels=("user",))
    counts: dict[str, int] = {}
    for info in facade.connections() if facade is not None else ():
        counts[info.name] = counts.get(info.name, 0) + 1
    for name, count in sorted(counts.items()):
        sessions.add_metric((name,), count)
    yield sessions
    refusals = CounterMetricFamily(f"{PREFIX}_facade_refused", "calls that were not allowed")
    refusals.add_metric((), facade.refused if facade is not None else 0)
    yield refusals


def _stores(apiserver: Apiserver) -> Iterable[Metric]:
    cluster = apiserver.settings.cluster_name
    queue = GaugeMetricFamily(f"{PREFIX}_kvstore_sync_queue_size", "keys waiting to be written", labels=SCOPED)
    errors = CounterMetricFamily(f"{PREFIX}_kvstore_sync_errors", "failed writes", labels=SCOPED)
    writes = CounterMetricFamily(f"{PREFIX}_kvstore_writes", "keys written or deleted", labels=SCOPED)
    repairs = CounterMetricFamily(f"{PREFIX}_kvstore_repairs", "keys that somebody else had changed", labels=SCOPED)
    published = GaugeMetricFamily(f"{PREFIX}_records_published", "records wanted in the store", labels=SCOPED)
    complete = GaugeMetricFamily(
        f"{PREFIX}_kvstore_initial_sync_completed", "1 once the canary is written", labels=(*SCOPED, "action")
    )
    for kind, store in apiserver.stores().items():
        scope = (f"{kind.value}/v1", cluster)
        queue.add_metric(scope, store.pending)
        errors.add_metric(scope, store.failures)
        writes.add_metric(scope, store.writes)
        repairs.add_metric(scope, store.repaired)
        published.add_metric(scope, len(store.wanted))
        complete.add_metric((*scope, "write"), float(store.synced.is_set()))
    yield from (queue, errors, writes, repairs, published, complete)


def _identities(apiserver: Apiserver) -> Iterable[Metric]:
    missing = GaugeMetricFamily(f"{PREFIX}_identities_refused", "identities not published", labels=("reason",))
    for reason, count in sorted(refused(apiserver, Kind.IDENTITIES).items()):
        missing.add_metric((reason,), count)
    yield missing
    pending = GaugeMetricFamily(f"{PREFIX}_identities_pending", "label sets that wait for a number")
    pending.add_metric((), apiserver.allocator.pending)
    yield pending
