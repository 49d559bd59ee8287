# SPDX-License-Identifier: Apache-2.0
"""Followed clusters as rows of meshapi: sessions and rejected records. Reads, never writes."""

from __future__ import annotations

from agent.mesh.rejections import Rejections
from agent.mesh.state import SessionRecord
from meshapi.peer import PeerState, RejectedRecords, RemoteCluster, RemoteClusterConfig, RemoteClusterSynced
from meshkit.clock import Clock
from meshmodel.keys import Kind
from meshmodel.names import ClusterName


def cluster_row(state: SessionRecord, rejections: Rejections, clock: Clock) -> RemoteCluster:
    """One followed cluster, or the own cluster's store, which is followed in the same way."""
    config, counts, synced = state.config, state.counts, state.synced
    return RemoteCluster(
        name=state.name,
        ready=state.is_ready and state.state is not PeerState.WITHDRAWN,
        connected=state.is_connected,
        status=_status_text(state),
        num_nodes=counts.get(Kind.NODES, 0),
        num_shared_services=counts.get(Kind.SERVICES, 0),
        num_endpoints=counts.get(Kind.IPS, 0),
        num_identities=counts.get(Kind.IDENTITIES, 0),
        num_endpoint_slices=counts.get(Kind.ENDPOINT_SLICES, 0),
        num_failures=state.failures,
        last_failure=state.last_failure_wall_s,
        last_error=state.last_error,
        config=RemoteClusterConfig(
            retrieved=config is not None,
            cluster_id=config.id if config is not None else 0,
            kvstoremesh=config is not None and config.cached,
            sync_canaries=config is not None and config.synced_canaries,
            service_exports_enabled=config.service_exports_enabled if config is not None else None,
            endpoint_slices_export_mode=config.endpoint_slices_export_mode if config is not None else "",
        ),
        synced=RemoteClusterSynced(
            nodes=synced.get(Kind.NODES, False),
            services=synced.get(Kind.SERVICES, synced.get(Kind.ENDPOINT_SLICES, False)),
            identities=synced.get(Kind.IDENTITIES, False),
            endpoints=synced.get(Kind.IPS, False),
            endpoint_slices=synced.get(Kind.ENDPOINT_SLICES) if Kind.ENDPOINT_SLICES in state.kinds else None,
        ),
        state=state.state,
        reason=state.reason,
        probes_reached=state.probes_reached,
        probes_total=state.probes_total,
        session_since=state.session_since_wall_s if state.is_connected else 0.0,
        last_update=state.last_update_wall_s,
        age_s=_age_s(state, clock),
        revision=state.revision,
        records_rejected=dict(rejections.counts(state.name)),
        warnings=list(state.warnings),
    )


def rejected_rows(rejections: Rejections, cluster: ClusterName) -> dict[str, RejectedRecords]:
    """What was not believed of a cluster, by reason."""
    samples = rejections.samples(cluster)
    counts = rejections.counts(cluster)
    return {reason: RejectedRecords(total=total, sample=samples[reason]) for reason, total in counts.items()}


def _age_s(state: SessionRecord, clock: Clock) -> float | None:
    """How long ago the store was last known to agree with what we hold: now, while its session stands."""
    if state.is_ready:
        return max(0.0, clock.monotonic() - state.last_heartbeat_s)
    return clock.wall() - state.last_update_wall_s if state.last_update_wall_s else None


def _status_text(state: SessionRecord) -> str:
    if state.is_connected:
        return f"etcd: connected, ID: {state.store_id:x}" if state.store_id else "etcd: connected"
    return state.reason or state.last_error
