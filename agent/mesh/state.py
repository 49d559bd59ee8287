# SPDX-License-Identifier: Apache-2.0
"""What is known of one cluster's session, as the status shows it."""

from __future__ import annotations

from dataclasses import dataclass, field

from meshapi.peer import PeerState
from meshmodel.cluster_config import ClusterConfig
from meshmodel.keys import Kind
from meshmodel.names import ClusterName

INITIAL_STATUS = "Waiting for initial connection to be established"


@dataclass(slots=True)
class SessionRecord:
    """Written by the session, read by the status. Times ending in _s are monotonic, in wall_s since 1970."""

    name: ClusterName
    is_own: bool = False
    state: PeerState = PeerState.CONNECTING
    reason: str = INITIAL_STATUS
    is_connected: bool = False
    config: ClusterConfig | None = None
    store_id: int = 0
    failures: int = 0
    last_failure_wall_s: float = 0.0
    last_error: str = ""
    session_since_wall_s: float = 0.0
    last_update_wall_s: float = 0.0
    last_heartbeat_s: float = 0.0
    control_lost_s: float | None = None
    data_lost_s: float | None = None
    has_probes: bool = False
    probes_reached: int = 0
    probes_total: int = 0
    revision: int = 0
    kinds: tuple[Kind, ...] = ()
    synced: dict[Kind, bool] = field(default_factory=dict)
    counts: dict[Kind, int] = field(default_factory=dict)
    endpoints: tuple[str, ...] = ()
    revocations: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def is_synced(self) -> bool:
        return bool(self.kinds) and all(self.synced.get(kind, False) for kind in self.kinds)

    @property
    def is_ready(self) -> bool:
        return self.is_connected and self.config is not None and self.is_synced
