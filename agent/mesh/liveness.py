# SPDX-License-Identifier: Apache-2.0
"""What a lost signal of a peer means for its backends. Pure.

Two signals: control (the store session and its heartbeat) and data (probes through the real path). Both lost: withdraw from new
connections after the bound. Control lost only: freeze and say so. Data lost only: this node stops choosing the peer.
Without probes the data signal is unknown, and nothing is ever withdrawn. That no service is emptied by this is ensured
where backends are selected: withdrawn ones count as unhealthy, and the last known set is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

MINIMUM_WITHDRAW_AFTER_S = 3.0


class Liveness(StrEnum):
    """CONNECTED: both fine. FROZEN: kept as last heard. WITHDRAWN: not chosen for new connections."""

    CONNECTED = "connected"
    FROZEN = "frozen"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class Signals:
    """Since when each signal is lost, monotonic seconds; None: it is there. `has_probes` false: data is unknown."""

    control_lost_s: float | None
    data_lost_s: float | None
    has_probes: bool


@dataclass(frozen=True, slots=True)
class LivenessDecision:
    """What holds now, why, and when to decide again (None: at the next change of a signal)."""

    liveness: Liveness
    reason: str
    again_at_s: float | None = None


def decide(now_s: float, signals: Signals, withdraw_after_s: float) -> LivenessDecision:
    """The state of a peer's backends on this node."""
    bound_s = max(MINIMUM_WITHDRAW_AFTER_S, withdraw_after_s)
    control, data = signals.control_lost_s, signals.data_lost_s if signals.has_probes else None
    if control is None and data is None:
        return LivenessDecision(Liveness.CONNECTED, "")
    if data is None:
        known = "data path is alive" if signals.has_probes else "data path is not probed"
        return LivenessDecision(Liveness.FROZEN, f"control session lost, {known}: last known state is kept")
    since = data if control is None else max(control, data)
    due_s = since + bound_s
    what = "data path lost" if control is None else "control and data path lost"
    if now_s >= due_s:
        return LivenessDecision(Liveness.WITHDRAWN, f"{what}: not chosen for new connections")
    held = Liveness.CONNECTED if control is None else Liveness.FROZEN
    return LivenessDecision(held, f"{what}: withdrawn in {due_s - now_s:.0f} s unless one comes back", due_s)


def is_cache_expired(now_s: float, disconnected_since_s: float | None, cache_ttl_s: float) -> bool:
    """Whether a peer's services are to be drained because nothing was heard for the configured time (0: never)."""
    return cache_ttl_s > 0 and disconnected_since_s is not None and now_s - disconnected_since_s >= cache_ttl_s
