# SPDX-License-Identifier: Apache-2.0
"""One followed cluster as one program sees it. Pure."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from meshapi.row import Row


class PeerState(StrEnum):
    """Where the session with a peer stands, in the order it goes through them."""

    WAITING = "waiting"
    CONNECTING = "connecting"
    SYNCING = "syncing"
    READY = "ready"
    DISCONNECTED = "disconnected"
    WITHDRAWN = "withdrawn"
    REFUSED = "refused"


class RemoteClusterConfig(Row, kw_only=True):
    """What was found in the peer's cluster config."""

    required: bool = True
    retrieved: bool = False
    cluster_id: int = 0
    kvstoremesh: bool = False
    sync_canaries: bool = False
    service_exports_enabled: bool | None = None
    endpoint_slices_export_mode: str = ""


class RemoteClusterSynced(Row, kw_only=True):
    """Which listings are complete."""

    nodes: bool = False
    services: bool = False
    identities: bool = False
    endpoints: bool = False
    endpoint_slices: bool | None = None
    service_exports: bool | None = None


class Truncated(Row, kw_only=True):
    """Records of one kind that were not taken because the cluster publishes more than the limit; `first` names some."""

    total: int
    first: list[str]
    limit: str


class RemoteCluster(Row, kw_only=True):
    """One peer as one program sees it. `age_s` is how old the newest confirmed data is; times are wall seconds, 0 = never.

    `rtt_s` is the median of the round trips to the peer's nodes that answered the last probes, as the agent of one node
    measures them through the overlay (to Cilium's nodes by TCP); None where none did, and for a program that does not probe.
    """

    name: str
    ready: bool = False
    connected: bool = False
    status: str = "Waiting for initial connection to be established"
    num_nodes: int = 0
    num_shared_services: int = 0
    num_endpoints: int = 0
    num_identities: int = 0
    num_endpoint_slices: int = 0
    num_service_exports: int = 0
    num_failures: int = 0
    last_failure: float = 0.0
    last_error: str = ""
    config: RemoteClusterConfig = msgspec.field(default_factory=RemoteClusterConfig)
    synced: RemoteClusterSynced = msgspec.field(default_factory=RemoteClusterSynced)
    state: PeerState = PeerState.WAITING
    reason: str = ""
    session_since: float = 0.0
    last_update: float = 0.0
    age_s: float | None = msgspec.field(default=None, name="age")
    revision: int = 0
    probes_reached: int = 0
    probes_total: int = 0
    rtt_s: float | None = msgspec.field(default=None, name="rtt")
    cert_not_after: float = 0.0
    records_rejected: dict[str, int] = msgspec.field(default_factory=dict)
    truncated: dict[str, Truncated] = msgspec.field(default_factory=dict)
    warnings: list[str] = msgspec.field(default_factory=list)


class RejectedRecords(Row, kw_only=True):
    """Records of one cluster that were not believed for one reason; `sample` is the last of them."""

    total: int
    sample: str
