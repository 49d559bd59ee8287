# SPDX-License-Identifier: Apache-2.0
"""How one followed cluster stands, in the shape every program shows. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from meshapi.peer import PeerState, RemoteCluster, RemoteClusterConfig, RemoteClusterSynced, Truncated
from meshmodel.cluster_config import ClusterConfig
from meshmodel.keys import Kind
from meshpeer.followed import FollowedCluster


def remote_cluster(
    state: FollowedCluster,
    now_s: float,
    *,
    synced: Mapping[Kind, bool] | None = None,
    rejected: Mapping[str, int] | None = None,
) -> RemoteCluster:
    """The status at `now_s` (monotonic seconds).

    `synced` says which kinds are complete where the program needs them (default: those whose listing is complete); a cluster
    is ready when every kind that is followed is. The age counts from the last moment the store was heard of.
    """
    done = state.synced if synced is None else synced
    is_complete = state.is_ready and all(map(done.get, state.kinds))
    counts, (shown, reason) = state.counts, state.shown
    if shown is PeerState.READY and not is_complete:
        shown = PeerState.SYNCING
    return RemoteCluster(
        name=state.name,
        ready=is_complete and shown is not PeerState.WITHDRAWN,
        connected=state.is_connected,
        status=_text(state),
        num_nodes=counts.get(Kind.NODES, 0),
        num_shared_services=counts.get(Kind.SERVICES, 0),
        num_endpoints=counts.get(Kind.IPS, 0),
        num_identities=counts.get(Kind.IDENTITIES, 0),
        num_endpoint_slices=counts.get(Kind.ENDPOINT_SLICES, 0),
        num_service_exports=counts.get(Kind.SERVICE_EXPORTS, 0),
        num_failures=state.failures,
        last_failure=state.last_failure_wall_s,
        last_error=state.last_error,
        config=_config(state.config),
        synced=_synced(state, done),
        state=shown,
        reason=reason,
        probes_reached=state.probes_reached,
        probes_total=state.probes_total,
        rtt_s=state.rtt_s,
        session_since=state.session_since_wall_s if state.is_connected else 0.0,
        last_update=state.last_update_wall_s,
        age_s=None if state.last_heard_s is None else max(0.0, now_s - state.last_heard_s),
        revision=state.revision,
        cert_not_after=state.cert_not_after_s,
        records_rejected=dict(rejected or {}),
        truncated={
            what: Truncated(total=dropped.total, first=list(dropped.first), limit=dropped.limit)
            for what, dropped in state.truncated.items()
        },
        warnings=[*state.warnings, *_truncations(state), *_slowed(state, now_s)],
    )


def _text(state: FollowedCluster) -> str:
    if state.is_connected:
        return f"etcd: connected, ID: {state.store_id:x}" if state.store_id else "etcd: connected"
    return state.shown[1] or state.last_error


def _truncations(state: FollowedCluster) -> list[str]:
    return [
        f"publishes more than is taken: {what}, {dropped.total} records beyond {dropped.limit}, first {dropped.first[0]}"
        for what, dropped in state.truncated.items()
    ]


def _slowed(state: FollowedCluster, now_s: float) -> list[str]:
    return [f"publishes faster than is taken: {state.slowed}"] if now_s < state.slowed_until_s else []


def _config(config: ClusterConfig | None) -> RemoteClusterConfig:
    if config is None:
        return RemoteClusterConfig()
    return RemoteClusterConfig(
        retrieved=True,
        cluster_id=config.id,
        kvstoremesh=config.cached,
        sync_canaries=config.synced_canaries,
        service_exports_enabled=config.service_exports_enabled,
        endpoint_slices_export_mode=config.endpoint_slices_export_mode,
    )


def _synced(state: FollowedCluster, done: Mapping[Kind, bool]) -> RemoteClusterSynced:
    """Backends count as synced in whichever form they are followed; kinds that are not followed have no value."""

    def optional(kind: Kind) -> bool | None:
        return done.get(kind, False) if kind in state.kinds else None

    backends = Kind.SERVICES if Kind.SERVICES in state.kinds else Kind.ENDPOINT_SLICES
    return RemoteClusterSynced(
        nodes=done.get(Kind.NODES, False),
        services=done.get(backends, False),
        identities=done.get(Kind.IDENTITIES, False),
        endpoints=done.get(Kind.IPS, False),
        endpoint_slices=optional(Kind.ENDPOINT_SLICES),
        service_exports=optional(Kind.SERVICE_EXPORTS),
    )
