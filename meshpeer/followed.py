# SPDX-License-Identifier: Apache-2.0
"""How the session with one followed cluster stands, and how it changes. Pure: times are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from meshapi.peer import PeerState
from meshkit.errors import MAXIMUM_TEXT
from meshmodel.cluster_config import ClusterConfig
from meshmodel.keys import Kind
from meshmodel.names import ClusterName
from meshpeer.caps import Dropped

INITIAL_STATUS: Final = "Waiting for initial connection to be established"


@dataclass(slots=True)
class FollowedCluster:
    """Written by the session and by who probes; read by the status. Times in _s are monotonic, in wall_s since 1970."""

    name: ClusterName
    is_own: bool = False
    state: PeerState = PeerState.CONNECTING
    reason: str = INITIAL_STATUS
    withdrawn: str = ""
    """Why the cluster is not chosen for new connections, whatever its session does; empty: it is."""
    is_connected: bool = False
    lost_streams: tuple[str, ...] = ()
    config: ClusterConfig | None = None
    store_id: int = 0
    failures: int = 0
    last_failure_wall_s: float = 0.0
    last_error: str = ""
    session_since_wall_s: float = 0.0
    last_update_wall_s: float = 0.0
    last_heartbeat_s: float = 0.0
    last_heard_s: float | None = None
    control_lost_s: float | None = None
    data_lost_s: float | None = None
    has_probes: bool = False
    probes_reached: int = 0
    probes_total: int = 0
    rtt_s: float | None = None
    revision: int = 0
    kinds: tuple[Kind, ...] = ()
    synced: dict[Kind, bool] = field(default_factory=dict)
    counts: dict[Kind, int] = field(default_factory=dict)
    revocations: int = 0
    warnings: tuple[str, ...] = ()
    cert_not_after_s: float = 0.0  # wall time; 0 while unknown
    truncated: Mapping[str, Dropped] = field(default_factory=dict)
    slowed: str = ""
    """What is read more slowly than it is published, and how fast; true until `slowed_until_s`."""
    slowed_until_s: float = 0.0

    @property
    def is_synced(self) -> bool:
        """Whether every kind that is followed was listed once."""
        return bool(self.kinds) and all(map(self.synced.get, self.kinds))

    @property
    def shown(self) -> tuple[PeerState, str]:
        """State and reason as people see them: a withdrawal goes before what the session says."""
        return (PeerState.WITHDRAWN, self.withdrawn) if self.withdrawn else (self.state, self.reason)

    @property
    def is_ready(self) -> bool:
        """Whether everything the cluster publishes is known and followed."""
        return self.is_connected and self.config is not None and self.is_synced and not self.lost_streams

    def begin(self, config: ClusterConfig, kinds: Sequence[Kind]) -> None:
        """The configuration was accepted; kinds that were listed under the same form before need not be listed first."""
        self.config, self.kinds = config, tuple(kinds)
        self.synced = {kind: self.synced.get(kind, False) for kind in kinds}
        self.counts = {kind: self.counts.get(kind, 0) for kind in kinds}
        self.state, self.reason = PeerState.SYNCING, ""

    def forget(self) -> None:
        """Nothing of the cluster is known."""
        self.config, self.kinds = None, ()
        self.synced.clear()
        self.counts.clear()

    def connect(self, now_s: float, wall_s: float) -> None:
        """The first stream stands."""
        self.is_connected, self.control_lost_s = True, None
        self.session_since_wall_s, self.last_heard_s = wall_s, now_s
        self.state, self.reason = PeerState.SYNCING, ""
        self.settle()

    def lose(self, now_s: float, reason: str) -> None:
        """No stream stands any more; what is known stays known."""
        if self.control_lost_s is None:
            self.control_lost_s = now_s
        if self.is_connected:
            self.is_connected, self.lost_streams = False, ()
            self._show_loss(reason)

    def note_lost_streams(self, lost: tuple[str, ...]) -> None:
        """These streams of a session that stands have been lost for too long: the cluster is not ready, and says why."""
        if lost == self.lost_streams:
            return
        self.lost_streams = lost
        if self.is_connected:
            self.state = PeerState.SYNCING
            self.reason = f"not followed at the moment: {', '.join(lost)}; last known state is kept" if lost else ""
            self.settle()

    def settle(self) -> bool:
        """Ready if everything is there; true when it became so now."""
        if not self.is_ready or self.state is not PeerState.SYNCING:
            return False
        self.state, self.reason = PeerState.READY, ""
        return True

    def fail(self, wall_s: float, error: str, *, is_refused: bool) -> None:
        """The attempt is over."""
        self.failures += 1
        self.last_failure_wall_s, self.last_error = wall_s, error[:MAXIMUM_TEXT]
        if is_refused:
            self.state, self.reason = PeerState.REFUSED, self.last_error
        else:
            self._show_loss(self.last_error)

    def _show_loss(self, reason: str) -> None:
        self.state = PeerState.DISCONNECTED if self.is_synced else PeerState.CONNECTING
        self.reason = f"{reason}; last known state is kept" if self.is_synced else reason
