# SPDX-License-Identifier: Apache-2.0
"""Whether one attempt to follow a store is over, judged from its streams, its heartbeat and its configuration. Pure.

Times are monotonic seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from meshmodel.cluster_config import ClusterConfig

HEARTBEAT_SILENCE_S: Final = 120.0
LOST_LIMIT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class SignalLimits:
    """How long the heartbeat may be silent, and how long no stream may stand, before the attempt is over."""

    heartbeat_silence_s: float = HEARTBEAT_SILENCE_S
    lost_limit_s: float = LOST_LIMIT_S


class Streams:
    """Which streams of one attempt stand. A stream that waits for its canary never stood and is never lost."""

    def __init__(self, now_s: float) -> None:
        self._standing: set[str] = set()
        self._lost_s: dict[str, float] = {}
        self.none_since_s: float | None = now_s

    @property
    def is_connected(self) -> bool:
        """Whether at least one stream stands."""
        return bool(self._standing)

    def note(self, stream: str, *, is_standing: bool, now_s: float) -> None:
        """The stream stands from here on, or is lost."""
        if is_standing:
            self._standing.add(stream)
            self._lost_s.pop(stream, None)
            self.none_since_s = None
            return
        self._lost_s.setdefault(stream, now_s)
        self._standing.discard(stream)
        if not self._standing and self.none_since_s is None:
            self.none_since_s = now_s

    def lost(self, now_s: float, limit_s: float) -> tuple[str, ...]:
        """Streams that have been lost for longer than the limit, by name."""
        return tuple(sorted(name for name, since_s in self._lost_s.items() if now_s - since_s > limit_s))


def why_over(now_s: float, streams: Streams, last_heartbeat_s: float, limits: SignalLimits) -> str | None:
    """Why the attempt is over; None while it may go on.

    Only the heartbeat tells whether a remote store lives. A connection that stays lost is made anew, since the next one reads
    certificates and addresses as they are then.
    """
    if now_s - last_heartbeat_s > limits.heartbeat_silence_s:
        return f"no heartbeat for {limits.heartbeat_silence_s:g} s"
    if streams.none_since_s is not None and now_s - streams.none_since_s > limits.lost_limit_s:
        return f"connection lost for {limits.lost_limit_s:g} s"
    return None


def why_config_ends(known: ClusterConfig, found: ClusterConfig | None) -> str | None:
    """Why a cluster whose configuration reads `found` now is met again from the start; None when it is as known."""
    if found is None:
        return "the cluster configuration was removed"
    return None if found == known else "the cluster configuration changed"
