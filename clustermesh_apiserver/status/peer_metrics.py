# SPDX-License-Identifier: Apache-2.0
"""Metrics of the peers that are mirrored: as an agent has of clusters it follows, here of the session with the peer itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from meshapi.peer import RemoteCluster

LABELS: Final = ("source_cluster", "target_cluster")
_VALUES: Final[Mapping[str, Callable[[RemoteCluster], float | None]]] = {
    "readiness_status": lambda peer: float(peer.ready),
    "failures": lambda peer: float(peer.num_failures),
    "last_failure_ts": lambda peer: peer.last_failure,
    "session_since_ts": lambda peer: peer.session_since,
    "data_age_seconds": lambda peer: peer.age_s,
    "truncated_records": lambda peer: float(sum(kind.total for kind in peer.truncated.values())),
    "nodes": lambda peer: float(peer.num_nodes),
    "services": lambda peer: float(peer.num_shared_services),
    "endpoints": lambda peer: float(peer.num_endpoints),
    "identities": lambda peer: float(peer.num_identities),
    "endpoint_slices": lambda peer: float(peer.num_endpoint_slices),
}


def peer_metrics(prefix: str, cluster: str, peers: Sequence[RemoteCluster]) -> Iterable[Metric]:
    """One family each, without a sample while there is no peer. A peer that nothing is known of yet has no age."""
    count = GaugeMetricFamily(f"{prefix}_remote_clusters", "peers that are mirrored")
    count.add_metric((), len(peers))
    yield count
    for name, value_of in _VALUES.items():
        family = GaugeMetricFamily(
            f"{prefix}_remote_cluster_{name}", "per peer, of the mirror's session", labels=LABELS
        )
        for peer in peers:
            if (value := value_of(peer)) is not None:
                family.add_metric((cluster, peer.name), value)
        yield family
    state = GaugeMetricFamily(
        f"{prefix}_remote_cluster_state", "1 for the state a peer is in", labels=(*LABELS, "state")
    )
    rejected = CounterMetricFamily(f"{prefix}_records_rejected", "records not believed", labels=("cluster", "reason"))
    for peer in peers:
        state.add_metric((cluster, peer.name, str(peer.state)), 1.0)
        for reason, total in sorted(peer.records_rejected.items()):
            rejected.add_metric((peer.name, reason), total)
    yield from (state, rejected)
