# SPDX-License-Identifier: Apache-2.0
"""Metrics of followed clusters: readiness, age, records, refusals."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from agent.mesh.runner import MeshRunner
from agent.metric import PREFIX, gauge
from meshmodel.keys import Kind
from meshmodel.names import ClusterName

_COUNTS = {
    "remote_cluster_nodes": Kind.NODES,
    "remote_cluster_services": Kind.SERVICES,
    "remote_cluster_endpoints": Kind.IPS,
    "remote_cluster_identities": Kind.IDENTITIES,
    "remote_cluster_endpoint_slices": Kind.ENDPOINT_SLICES,
}


def cluster_metrics(runner: MeshRunner, own: ClusterName, now_s: float) -> Iterable[Metric]:
    states = runner.states()
    yield gauge("remote_clusters", "configured peers", len(states))
    labels = ["source_cluster", "target_cluster"]
    values = {
        "remote_cluster_readiness_status": [float(s.is_ready) for s in states],
        "remote_cluster_failures": [float(s.failures) for s in states],
        "remote_cluster_last_failure_ts": [s.last_failure_wall_s for s in states],
        "remote_cluster_truncated_records": [float(sum(d.total for d in s.truncated.values())) for s in states],
        "remote_cluster_cache_revocations": [float(s.revocations) for s in states],
        "remote_cluster_data_age_seconds": [
            0.0 if s.control_lost_s is None else now_s - s.control_lost_s for s in states
        ],
        **{name: [float(s.counts.get(kind, 0)) for s in states] for name, kind in _COUNTS.items()},
    }
    for name, found in values.items():
        family = GaugeMetricFamily(f"{PREFIX}_{name}", "per peer, as this node sees it", labels=labels)
        for state, value in zip(states, found, strict=True):
            family.add_metric([own, state.name], value)
        yield family
    family = GaugeMetricFamily(
        f"{PREFIX}_remote_cluster_rtt_seconds", "median round trip to the nodes that answer probes", labels=labels
    )
    for state in states:
        if state.rtt_s is not None:
            family.add_metric([own, state.name], state.rtt_s)
    yield family
    family = GaugeMetricFamily(
        f"{PREFIX}_remote_cluster_state", "1 for the state a peer is in", labels=[*labels, "state"]
    )
    for state in states:
        family.add_metric([own, state.name, str(state.state)], 1.0)
    yield family


def rejection_metrics(runner: MeshRunner) -> Iterable[Metric]:
    family = CounterMetricFamily(f"{PREFIX}_records_rejected", "records not believed", labels=["cluster", "reason"])
    for (cluster, reason), total in runner.rejections.totals().items():
        family.add_metric([cluster, reason], total)
    yield family
