# SPDX-License-Identifier: Apache-2.0
"""Metrics that are read from state when they are asked for. Cilium's names under our prefix; none names a pod or a policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from agent.datapath.layout import Direction
from agent.datapath.reasons import Reason
from meshmodel.keys import Kind

if TYPE_CHECKING:
    from agent.served import Served

PREFIX = "clustermesh_agent"
_COUNTS = {
    "remote_cluster_nodes": Kind.NODES,
    "remote_cluster_services": Kind.SERVICES,
    "remote_cluster_endpoints": Kind.IPS,
    "remote_cluster_identities": Kind.IDENTITIES,
    "remote_cluster_endpoint_slices": Kind.ENDPOINT_SLICES,
}


def collect_metrics(agent: Served) -> Iterable[Metric]:
    """Everything an operator would graph or alert on."""
    yield from _clusters(agent)
    yield from _rejections(agent)
    yield from _backends(agent)
    yield from _drops(agent)
    yield _gauge("endpoints", "pods of this node that are enforced", len(agent.db.endpoints))
    yield _gauge("flows_seen_total", "flow records since the start", agent.flows.seen)
    pending = GaugeMetricFamily(f"{PREFIX}_map_pending", "rows waiting to be written", labels=["table"])
    failing = GaugeMetricFamily(f"{PREFIX}_map_failing", "rows that could not be written", labels=["table"])
    crowded = GaugeMetricFamily(f"{PREFIX}_map_without_room", "rows for which the map has no room", labels=["table"])
    repaired = CounterMetricFamily(
        f"{PREFIX}_map_repaired", "rows that others had changed in the map", labels=["table"]
    )
    for name, reconciler in agent.reconcilers.items():
        status = reconciler.status()
        pending.add_metric([name], status.pending)
        failing.add_metric([name], status.failed)
        crowded.add_metric([name], status.waiting_for_room)
        repaired.add_metric([name], status.repaired_total)
    yield from (pending, failing, crowded, repaired)
    backends = agent.lb_target.backends
    yield _gauge("kept_backends", "backends that only open connections may need", len(backends.kept))
    given_up = CounterMetricFamily(f"{PREFIX}_kept_backends_given_up", "kept backends that had to make room")
    given_up.add_metric([], backends.given_up_total)
    yield given_up
    yield _gauge("services_not_honoured", "services whose owner is told of a problem", len(agent.db.service_problems))


def _gauge(name: str, help_text: str, value: float) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}_{name}", help_text)
    family.add_metric([], value)
    return family


def _clusters(agent: Served) -> Iterable[Metric]:
    states, own = agent.mesh.states(), agent.db.own
    yield _gauge("remote_clusters", "configured peers", len(states))
    labels = ["source_cluster", "target_cluster"]
    now_s = agent.clock.monotonic()
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
        f"{PREFIX}_remote_cluster_state", "1 for the state a peer is in", labels=[*labels, "state"]
    )
    for state in states:
        family.add_metric([own, state.name, str(state.state)], 1.0)
    yield family


def _rejections(agent: Served) -> Iterable[Metric]:
    family = CounterMetricFamily(f"{PREFIX}_records_rejected", "records not believed", labels=["cluster", "reason"])
    for (cluster, reason), total in agent.mesh.rejections.totals().items():
        family.add_metric([cluster, reason], total)
    yield family


def _backends(agent: Served) -> Iterable[Metric]:
    counts: Counter[str] = Counter()
    for row in agent.db.backends.rows():
        counts[row.cluster] += len(row.backends)
    family = GaugeMetricFamily(f"{PREFIX}_backends", "backends known, by cluster", labels=["cluster"])
    for cluster, count in sorted(counts.items()):
        family.add_metric([cluster], count)
    yield family


def drops(metrics: Iterable[tuple[Any, Any]]) -> Mapping[tuple[int, int], int]:
    """Packets by (reason, direction) of the kernel's counters."""
    return {(key.reason, key.direction): value.packets for key, value in metrics if value.packets}


_FLOW_STATES = {
    Reason.FLOW_OPENED: "opened",
    Reason.FLOW_ESTABLISHED: "established",
    Reason.FLOW_UNATTENDED: "unattended",
}


def _drops(agent: Served) -> Iterable[Metric]:
    family = CounterMetricFamily(f"{PREFIX}_drop", "packets dropped", labels=["reason", "direction"])
    flows = CounterMetricFamily(f"{PREFIX}_flows", "flows tracked, by how far they came", labels=["state", "direction"])
    unknown = 0
    for (reason, direction), packets in sorted(drops(agent.maps.metrics.items()).items()):
        try:
            known = Reason(reason)
        except ValueError:
            continue
        if known.dropped:
            family.add_metric([known.text, Direction(direction & 1).name.lower()], packets)
        if known in _FLOW_STATES:
            flows.add_metric([_FLOW_STATES[known], Direction(direction & 1).name.lower()], packets)
        if known is Reason.UNKNOWN_IDENTITY:
            unknown += packets
    yield family
    yield flows
    late = CounterMetricFamily(f"{PREFIX}_policy_drop_unknown_remote_identity", "drops of peers not known yet")
    late.add_metric([], unknown)
    yield late
    lost = CounterMetricFamily(f"{PREFIX}_lost_events", "events the kernel could not deliver")
    lost.add_metric([], agent.host.lost())
    yield lost
