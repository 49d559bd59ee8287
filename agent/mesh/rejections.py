# SPDX-License-Identifier: Apache-2.0
"""Records that were not believed: a counter per cluster and reason, and now and then a line that shows one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from meshkit.clock import Clock
from meshkit.errors import MAXIMUM_TEXT
from meshmodel.errors import RecordError
from meshmodel.names import ClusterName

log = logging.getLogger(__name__)

LOG_EVERY_S = 60.0


@dataclass(slots=True)
class _Reason:
    total: int = 0
    sample: str = ""
    logged_s: float | None = None


class Rejections:
    """Counts for status and metrics; one log line per cluster and reason a minute at most."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._reasons: dict[tuple[ClusterName, str], _Reason] = {}

    def record(self, cluster: ClusterName, error: RecordError) -> None:
        entry = self._reasons.setdefault((cluster, error.reason), _Reason())
        entry.total += 1
        entry.sample = f"{error.key}: {error.detail}"[:MAXIMUM_TEXT]
        now_s = self._clock.monotonic()
        if entry.logged_s is None or now_s - entry.logged_s >= LOG_EVERY_S:
            entry.logged_s = now_s
            facts = {"peer": cluster, "reason": error.reason, "key": error.key[:MAXIMUM_TEXT], "error": entry.sample}
            log.warning("record rejected", extra=facts)

    def forget(self, cluster: ClusterName) -> None:
        """The cluster is no peer any more; a later peer of that name begins at nought."""
        self._reasons = {key: entry for key, entry in self._reasons.items() if key[0] != cluster}

    def counts(self, cluster: ClusterName) -> Mapping[str, int]:
        """How many records of the cluster were rejected, by reason."""
        return {reason: e.total for (name, reason), e in sorted(self._reasons.items()) if name == cluster}

    def samples(self, cluster: ClusterName) -> Mapping[str, str]:
        return {reason: e.sample for (name, reason), e in sorted(self._reasons.items()) if name == cluster}

    def totals(self) -> Mapping[tuple[ClusterName, str], int]:
        return {key: entry.total for key, entry in sorted(self._reasons.items())}
