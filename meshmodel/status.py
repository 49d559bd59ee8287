# SPDX-License-Identifier: Apache-2.0
"""The status schema: what agents and API servers answer under /v1/status and the command reads. JSON names are hyphenated.

Nullable members mean "not applicable", never "not yet". New members may be added; none changes its meaning.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

SCHEMA: Final = 1


class PeerState(StrEnum):
    """Where the session with a peer stands, in the order it goes through them."""

    WAITING = "waiting"
    CONNECTING = "connecting"
    SYNCING = "syncing"
    READY = "ready"
    DISCONNECTED = "disconnected"
    WITHDRAWN = "withdrawn"
    REFUSED = "refused"
    REMOVED = "removed"


class _Kebab(msgspec.Struct, rename="kebab", kw_only=True):
    pass


class RemoteClusterConfig(_Kebab):
    """What was found in the peer's cluster config."""

    required: bool = True
    retrieved: bool = False
    cluster_id: int = 0
    kvstoremesh: bool = False
    sync_canaries: bool = False
    service_exports_enabled: bool | None = None
    endpoint_slices_export_mode: str = ""


class RemoteClusterSynced(_Kebab):
    """Which listings are complete."""

    nodes: bool = False
    services: bool = False
    identities: bool = False
    endpoints: bool = False
    endpoint_slices: bool | None = None
    service_exports: bool | None = None


class RemoteCluster(_Kebab):
    """One peer as one program sees it. `age_s` is how old the newest confirmed data is; times are wall seconds, 0 = never."""

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
    rtt_s: float | None = msgspec.field(default=None, name="rtt")
    probes_reached: int = 0
    probes_total: int = 0
    cert_not_after: float = 0.0
    records_rejected: dict[str, int] = msgspec.field(default_factory=dict)
    warnings: list[str] = msgspec.field(default_factory=list)


class MapStatus(_Kebab):
    """One kernel map: how full it is, and what is still to be written."""

    name: str
    entries: int
    maximum: int
    pending: int = 0
    failed: int = 0


class BackendStatus(_Kebab):
    """One backend of a frontend; `age` is the age of the record it came with, in seconds."""

    address: str
    port: int
    cluster: str
    state: str = "active"
    chosen: bool = False
    age_s: float | None = msgspec.field(default=None, name="age")
    reason: str = ""


class ServiceStatus(_Kebab):
    """One service address on one node: `frontend` is address:port/protocol."""

    frontend: str
    type: str
    name: str = ""
    backends: list[BackendStatus] = msgspec.field(default_factory=list)
    affinity: str = "none"
    is_global: bool = msgspec.field(default=False, name="global")
    problems: list[str] = msgspec.field(default_factory=list)


class AgentStatus(_Kebab):
    """One node's agent. `services` counts frontends; each item of `problems` is a sentence for a person."""

    schema: int = SCHEMA
    node: str = ""
    cluster: str = ""
    cluster_id: int = 0
    version: str = ""
    ready: bool = False
    started: float = 0.0
    peers: list[RemoteCluster] = msgspec.field(default_factory=list)
    endpoints: int = 0
    services: int = 0
    global_services: int = 0
    identities: int = 0
    policies: int = 0
    maps: list[MapStatus] = msgspec.field(default_factory=list)
    health: dict[str, str] = msgspec.field(default_factory=dict)
    datapath: dict[str, str] = msgspec.field(default_factory=dict)
    problems: list[str] = msgspec.field(default_factory=list)


class FacadeSession(_Kebab):
    """A client of the read-only facade."""

    name: str
    address: str = ""
    since: float = 0.0
    watches: int = 0
    bytes_sent: int = 0


class ApiserverStatus(_Kebab):
    """One cluster's publisher. `published` and `synced` are by kind of record."""

    schema: int = SCHEMA
    cluster: str = ""
    cluster_id: int = 0
    max_connected_clusters: int = 255
    version: str = ""
    ready: bool = False
    started: float = 0.0
    source: str = ""
    published: dict[str, int] = msgspec.field(default_factory=dict)
    synced: dict[str, bool] = msgspec.field(default_factory=dict)
    etcd_version: str = ""
    certificate_not_after: float = 0.0
    agents: list[AgentStatus] = msgspec.field(default_factory=list)
    peers: list[RemoteCluster] = msgspec.field(default_factory=list)
    sessions: list[FacadeSession] = msgspec.field(default_factory=list)
    health: dict[str, str] = msgspec.field(default_factory=dict)
    problems: list[str] = msgspec.field(default_factory=list)


def encode(status: AgentStatus | ApiserverStatus | RemoteCluster | ServiceStatus | list[ServiceStatus]) -> bytes:
    """JSON with sorted maps."""
    return msgspec.json.encode(status, order="deterministic")


def decode_agent(data: bytes) -> AgentStatus:
    """Raises: msgspec.DecodeError (members we do not know are ignored)."""
    return msgspec.json.decode(data, type=AgentStatus)


def decode_apiserver(data: bytes) -> ApiserverStatus:
    """Raises: msgspec.DecodeError (members we do not know are ignored)."""
    return msgspec.json.decode(data, type=ApiserverStatus)


def decode_services(data: bytes) -> list[ServiceStatus]:
    """Raises: msgspec.DecodeError."""
    return msgspec.json.decode(data, type=list[ServiceStatus])
