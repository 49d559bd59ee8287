# SPDX-License-Identifier: Apache-2.0
"""Networks that our nodes give up, as one whose object is deleted: their pods run on, and have their addresses still."""

from __future__ import annotations

from collections.abc import Sequence

from agent.mesh.networks import ClaimChange, Networks
from agent.tables import AgentDB, ClaimOrigin

_OF_ONE_TEXT = (4, 24)


class OwnPods:
    """A judge of what clusters claim: every pod of ours in a network that is not ours any more is ours by its own address."""

    def __init__(self, db: AgentDB, networks: Networks) -> None:
        self._db, self._networks = db, networks
        networks.judges.append(self.judge)

    def judge(self, changes: Sequence[ClaimChange]) -> int:
        """Returns how many addresses it looked at more closely: of an IPv4 /24 those whose text begins as the network's does."""
        own = self._db.own
        lost = [c.block for c in changes if c.cluster == own and not c.is_added and not c.block.is_address]
        if not lost:
            return 0
        nears = {str(block).rpartition(".")[0] for block in lost if (block.version, block.length) == _OF_ONE_TEXT}
        is_everywhere = any((block.version, block.length) != _OF_ONE_TEXT for block in lost)
        found = [
            row.prefix
            for row in self._db.prefixes.rows()
            if row.origin is ClaimOrigin.POD
            and row.cluster == own
            and (is_everywhere or row.prefix.rpartition(".")[0] in nears)
        ]
        for prefix in found:
            self._networks.set_own_pod(prefix)
        return len(found)
