# SPDX-License-Identifier: Apache-2.0
"""Metrics, read from the parts when somebody asks. Names: those of Cilium's exporter under our prefix, and our own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric

from clustermesh_apiserver.apiserver import Apiserver
from clustermesh_apiserver.status.peer_metrics import peer_metrics
from clustermesh_apiserver.status.program_status import refused
from meshkit.metrics import Registry
from meshkit.version import program_version
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
    yield InfoMetricFamily(PREFIX, "this program", value={"version": program_version()})
    yield from _stores(apiserver)
    yield from _identities(apiserver)
    expiry = GaugeMetricFamily(
        f"{PREFIX}_certificate_expiry_timestamp_seconds", "end of a certificate", labels=("cluster", "kind")
    )
    if apiserver.facade_server.not_after_s:
        expiry.add_metric((apiserver.settings.cluster_name, "server"), apiserver.facade_server.not_after_s)
    yield expiry
    waiting = GaugeMetricFamily(f"{PREFIX}_pods_unconfirmed", "pods that peers hear of when their node confirms them")
    waiting.add_metric((), sum(len(node.pods) for node in apiserver.confirmations.waiting()))
    yield waiting
    yield from peer_metrics(PREFIX, apiserver.settings.cluster_name, apiserver.peers())
    yield from _facade(apiserver)
    yield from _etcd(apiserver)
    yield from _leases(apiserver)


def _facade(apiserver: Apiserver) -> Iterable[Metric]:
    """What each user of the facade uses; one user may be many clients, each with limits of its own."""
    facade = apiserver.facade_server.facade
    clients = facade.clients() if facade is not None else []
    connections = GaugeMetricFamily(f"{PREFIX}_facade_clients", "connections with an open call", labels=("user",))
    in_flight = GaugeMetricFamily(f"{PREFIX}_facade_in_flight_bytes", "answers on their way", labels=("user",))
    limited = CounterMetricFamily(
        f"{PREFIX}_facade_limited", "calls refused beyond a client's limits", labels=("user",)
    )
    for user in sorted({client.user for client in clients}):
        mine = [client for client in clients if client.user == user]
        if any(client.connections for client in mine):
            connections.add_metric((user,), sum(client.connections for client in mine))
        in_flight.add_metric((user,), sum(client.in_flight_bytes for client in mine))
        limited.add_metric((user,), sum(client.refused for client in mine))
    refusals = CounterMetricFamily(f"{PREFIX}_facade_refused", "calls that were not allowed")
    refusals.add_metric((), facade.refused if facade is not None else 0)
    history = GaugeMetricFamily(f"{PREFIX}_facade_history_bytes", "changes kept for clients that resume")
    history.add_metric((), facade.history_bytes() if facade is not None else 0)
    yield from (connections, in_flight, limited, refusals, history)


def _leases(apiserver: Apiserver) -> Iterable[Metric]:
    if apiserver.publication is None:
        return
    lost = CounterMetricFamily(
        f"{PREFIX}_kvstore_leases_lost", "leases under published records that ended, of this store"
    )
    lost.add_metric((), sum(session.losses for session in apiserver.publication.sessions().values()))
    yield lost


def _etcd(apiserver: Apiserver) -> Iterable[Metric]:
    store = apiserver.publication.store if apiserver.publication is not None else None
    if store is None or store.status is None:
        return
    size = GaugeMetricFamily(f"{PREFIX}_etcd_size_bytes", "size of etcd's file, which counts for its quota")
    size.add_metric((), store.status.size_bytes)
    used = GaugeMetricFamily(f"{PREFIX}_etcd_used_bytes", "what would be left of etcd's file after defragmentation")
    used.add_metric((), store.status.used_bytes)
    alarms = GaugeMetricFamily(f"{PREFIX}_etcd_alarms", "alarms that etcd has raised")
    alarms.add_metric((), len(store.status.alarms))
    yield from (size, used, alarms)
    if store.caretaker is not None:
        made = CounterMetricFamily(f"{PREFIX}_etcd_compactions", "times a full etcd was compacted and defragmented")
        made.add_metric((), store.caretaker.rooms_made)
        yield made


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
