# SPDX-License-Identifier: Apache-2.0
"""What the identities table says anew."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from agent.tables import AgentDB, Identity
from meshkit.table import HistoryLostError

log = logging.getLogger(__name__)


class IdentityChanges:
    """Reads the table from where it was left."""

    def __init__(self, db: AgentDB) -> None:
        self._db, self._seen = db, 0

    def take(self, known: Callable[[], Iterable[int]]) -> list[tuple[Identity, bool]]:
        """Rows since last time, and whether each is gone; `known` are the numbers that were told before."""
        seen, self._seen = self._seen, self._db.identities.revision
        try:
            return [(c.row, c.deleted) for c in self._db.identities.changes_since(seen)]
        except HistoryLostError:
            log.warning("identities changed faster than policies were computed, reading all")
            rows = list(self._db.identities.rows())
            gone = set(known()) - {row.id for row in rows}
            return [(Identity(i, self._db.own, ()), True) for i in sorted(gone)] + [(row, False) for row in rows]
