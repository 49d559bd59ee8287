# SPDX-License-Identifier: Apache-2.0
"""The ipcache as a feature: the prefixes table and its map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from agent.core import Core
from agent.feature import Compare, Feature, Reconciling
from agent.ipcache.ops import IpcacheTarget, compare_prefixes
from agent.ipcache.routes import add_address_routes
from agent.ipcache.writer import PrefixWriter
from meshkit.reconciler import Outcome, Reconciler
from meshkit.rest import Rest


class IpcacheFeature(Feature):
    name = "ipcache"

    def __init__(self, core: Core) -> None:
        self._core = core
        self.before_first: Callable[[], object] = lambda: None
        """Called before the first write: what else decides about addresses is in the table then."""
        self.after_first: Callable[[], object] = lambda: None
        """Called when every address has been tried, again and again."""
        self.writer = PrefixWriter(core.db, tunnels_own_cluster=core.settings.own_cluster_routing == "tunnel")
        self._reconciler = Reconciler(
            core.db.prefixes,
            IpcacheTarget(core.maps.ipcache, core.db.own),
            clock=core.clock,
            rng=core.outside.rng,
            on_outcome=self._hear_outcome,
        )

    def restore(self) -> int:
        """One entry is enough to know that the node was used; the map itself is compared when it is pruned."""
        return 1 if next(self._core.maps.ipcache.items(), None) is not None else 0

    def reconcilers(self) -> Sequence[Reconciling]:
        table = self._core.db.prefixes
        return (Reconciling("prefixes", self._reconciler, (table,), before_first=self.before_first),)

    def are_written(self) -> bool:
        """The map holds what the table says as far as it can, or this agent did not begin to write."""
        return self._reconciler.is_written

    def have_begun(self) -> bool:
        """This agent writes."""
        return self._reconciler.has_begun

    def _hear_outcome(self, _outcome: Outcome) -> None:
        if self._reconciler.is_written:
            self.after_first()

    def differences(self) -> Compare:
        return partial(compare_prefixes, self._core.maps.ipcache, tuple(self._core.db.prefixes.rows()))

    def add_routes(self, rest: Rest) -> None:
        add_address_routes(rest, self._core.db)
