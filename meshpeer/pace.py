# SPDX-License-Identifier: Apache-2.0
"""How fast one cluster's store is read once its burst is used up.

Whatever the store tells has to be read and compared, so events that change nothing are counted too, as a part of those that do:
a peer that writes the same value again and again, or records beyond its cap, is slowed as well.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from kvstore.limiter import Limiter
from kvstore.store import Event
from meshkit.clock import Clock
from meshpeer.caps import Caps
from meshpeer.consumer import Change
from meshpeer.followed import FollowedCluster
from meshpeer.turns import Cost

log = logging.getLogger(__name__)

UNCHANGED_SHARE: Final = 0.1
SHOWN_S: Final = 10.0
BEATS: Final = Caps(size_bytes=1 << 20, changes_per_s=10.0, changes_burst=100.0, bytes_per_s=float(64 << 10))
"""Of the heartbeat, one small record that its writer renews once a minute or more often."""


class Pace:
    """Delays the reader of a cluster's streams as `caps` say, and writes into its state that it does."""

    def __init__(self, state: FollowedCluster, caps: Caps, clock: Clock) -> None:
        self._state, self._caps, self._clock = state, caps, clock
        self._changes = Limiter(caps.changes_per_s, caps.changes_burst, clock)
        self._bytes = Limiter(caps.bytes_per_s, caps.size_bytes, clock)

    async def keep(
        self, stream: str, events: Sequence[Event], changes: Sequence[Change], work: float, cost: Cost = len
    ) -> None:
        """The stream may be read on: these events were read, and changed so much: `work` changes, and bytes by `cost`."""
        changed_bytes = sum(cost(value) for _, value in changes if value)
        read_bytes = sum(len(event.key) + len(event.value) for event in events)
        changes_s = self._changes.reserve(max(work, UNCHANGED_SHARE * len(events)))
        bytes_s = self._bytes.reserve(max(changed_bytes, UNCHANGED_SHARE * read_bytes))
        delay_s = max(changes_s, bytes_s)
        if delay_s <= 0:
            return
        per_s = (
            f"{self._caps.changes_per_s:g} changes" if changes_s >= bytes_s else f"{self._caps.bytes_per_s:.0f} bytes"
        )
        self._note(f"{stream}, followed at {per_s} a second", delay_s)
        await self._clock.sleep(delay_s)

    def _note(self, slowed: str, delay_s: float) -> None:
        now_s, state = self._clock.monotonic(), self._state
        if state.slowed_until_s <= now_s:
            log.warning("peer publishes faster than is taken", extra={"peer": state.name, "reason": slowed})
        state.slowed, state.slowed_until_s = slowed, max(state.slowed_until_s, now_s + delay_s + SHOWN_S)
