# SPDX-License-Identifier: Apache-2.0
"""What the programs say of themselves over REST; the command, people and tests read the same shapes.

Names keep the anchor's hyphens. `schema` rises only when a field changes its meaning; unknown fields are ignored by readers.
Source: spec of the wire format, 6.7, and of the command line, 7.3.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

SCHEMA = 1


class PeerState(StrEnum):
    """Where a peer's session stands."""

    CONNECTING = "Connecting"
    SYNCING = "Syncing"
    READY = "Ready"
    STALE = "Stale"  # connected once; what is known is kept, and its age shown
    WITHDRAWN = "Withdrawn"  # lost for longer than the bound; no new connections are sent there
    REFUSED = "Refused"  # its configuration, or ours for it, cannot be used: somebody must change it


class _Struct(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    pass


class PeerConfig(_Struct, frozen=True, kw_only=True):
    """What is known of a peer's cluster-config."""

    required: bool = True
    retrieved: bool = False
    cluster_id: int = 0
    kvstoremesh: bool = False
    sync_canaries: bool = False
    service_exports_enabled: bool | None = None
    endpoint_slices_export_mode: str = ""


class PeerSynced(_Struct, frozen=True, kw_only=True):
    """Which first listings are complete; None where the kind does not apply."""

    nodes: bool = False
    services: bool = False
    identities: bool = False
    endpoints: bool = False
    endpoint_slices: bool | None = None
    service_exports: bool | None = None


class RemoteCluster(_Struct, frozen=True, kw_only=True):
    """One peer as one node (or one mirror) sees it. Times are wall seconds, 0 = never."""

    name: str
    ready: bool = False
    connected: bool = False
    status: str = ""
    state: PeerState = PeerState.CONNECTING
    reason: str = ""
    num_nodes: int = 0
    num_shared_services: int = 0
    num_endpoints: int = 0
    num_identities: int = 0
    num_endpoint_slices: int = 0
    num_service_exports: int = 0
    num_failures: int = 0
    last_failure: float = 0.0
    session_since: float = 0.0
    last_update: float = 0.0
    age_s: float = 0.0
    config: PeerConfig = PeerConfig()
    synced: PeerSynced = PeerSynced()
    records_rejected: dict[str, int] = {}


class MapUsage(_Struct, frozen=True, kw_only=True):
    """How full one kernel map is."""

    entries: int
    maximum: int


class AgentStatus(_Struct, frozen=True, kw_only=True):
    """One node's agent."""

    schema: int = SCHEMA
    node: str
    cluster: str
    cluster_id: int
    version: str = ""
    ready: bool = False
    started: float = 0.0
    peers: list[RemoteCluster] = []
    own_store: RemoteCluster | None = None
    endpoints: int = 0
    services: int = 0
    identities: int = 0
    policies: int = 0
    maps: dict[str, MapUsage] = {}
    drops: dict[str, int] = {}
    problems: list[str] = []


class AgentReport(_Struct, frozen=True, kw_only=True):
    """What the apiserver learned when it asked one node: a status, or why there is none."""

    node: str
    status: AgentStatus | None = None
    error: str = ""


class ApiserverStatus(_Struct, frozen=True, kw_only=True):
    """One cluster's clustermesh-apiserver, and its agents when they were asked for."""

    schema: int = SCHEMA
    cluster: str
    cluster_id: int
    version: str = ""
    ready: bool = False
    started: float = 0.0
    published: dict[str, int] = {}
    synced: dict[str, bool] = {}
    etcd_version: str = ""
    certificate_not_after: float = 0.0
    clients: list[str] = []
    peers: list[RemoteCluster] = []
    agents: list[AgentReport] = []
    problems: list[str] = []


class BackendStatus(_Struct, frozen=True, kw_only=True):
    """One candidate of a frontend, and whether new connections may go there."""

    address: str
    port: int
    protocol: str = "TCP"
    cluster: str = ""
    state: str = "active"
    chosen: bool = True
    age_s: float = 0.0


class ServiceStatus(_Struct, frozen=True, kw_only=True):
    """One frontend as one node has it; `realized` is when the kernel had it (wall s)."""

    service: str
    frontend: str
    type: str = "ClusterIP"
    is_global: bool = False
    is_shared: bool = False
    affinity: str = "none"
    rule: str = ""
    realized: float = 0.0
    backends: list[BackendStatus] = []
    problems: list[str] = []
