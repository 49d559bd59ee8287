# SPDX-License-Identifier: Apache-2.0
"""What a program does with a followed cluster's records, and what keeps and what drains them.

| event | verb | what is known |
|---|---|---|
| session begins, first or again | `begin` | stays; records of kinds that are not followed any more are drained by the consumer |
| records were listed or changed | `apply` | replaced key by key |
| a listing is complete | `listed` | nothing but what was listed |
| connection lost, session failed, program stopped | none | stays |
| the cluster has another id | `drain`, then `begin` | nothing of the former id is left |
| the cluster is not configured any more | `remove` | nothing is left, at once or after the consumer's grace |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from meshmodel.cluster_config import ClusterConfig
from meshmodel.keys import Kind

Change = tuple[bytes, bytes | None]
"""A key without its prefix, and its new value; None when it is gone."""


class Consumer(Protocol):
    """One followed cluster's records in one program. Outlives sessions; its verbs are never called at the same time."""

    async def begin(self, config: ClusterConfig, kinds: Sequence[Kind]) -> None:
        """Records that are applied from here on are of this configuration and of these kinds."""
        ...

    def apply(self, kind: Kind, changes: Sequence[Change]) -> int:
        """Everything the changes say is taken over, or counted as rejected record by record.

        Returns how many records were looked at for it: the rate of a peer's changes is counted by that.
        """
        ...

    async def listed(self, kind: Kind) -> None:
        """All records of this kind are applied. Called at the end of every listing."""
        ...

    def drain(self) -> None:
        """Nothing of the cluster is left; it stays configured."""
        ...

    def remove(self) -> None:
        """The cluster is not configured any more: nothing of it is left, now or after a grace. The last call."""
        ...
