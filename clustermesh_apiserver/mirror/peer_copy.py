# SPDX-License-Identifier: Apache-2.0
"""Everything of one peer in our own store: its configuration and a copy of each kind of its records.

Readers of our store follow the configuration, which they look at every 10 s. So a peer that begins to publish another kind is
announced with it only once that kind is copied, and a kind that it publishes no more is kept until they have gone over.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from clustermesh_apiserver.mirror.copy import Copy
from kvstore.lease import LeaseSession
from kvstore.sharedstore import SharedStore
from kvstore.store import LeaseStore
from meshkit.clock import Clock
from meshkit.supervise import together
from meshkit.wake import Wake, wait_for_ring
from meshmodel.cluster_config import ClusterConfig
from meshmodel.keys import Kind
from meshmodel.names import ClusterName
from meshpeer.consumer import Change

log = logging.getLogger(__name__)

FORMER_KIND_S: Final = 60.0
LOOK_S: Final = 0.05
TICK_S: Final = 1.0


class PeerCopy:
    """What a followed peer's consumer is in the mirror. `run` writes; the other verbs say what is wanted."""

    def __init__(
        self,
        name: ClusterName,
        store: LeaseStore,
        session: LeaseSession,
        configs: SharedStore,
        clock: Clock,
        *,
        on_removed: Callable[[ClusterName], None],
    ) -> None:
        self.name, self._configs, self._clock, self._on_removed = name, configs, clock, on_removed
        self._copies = {kind: Copy(name, kind, store, session, clock) for kind in Kind}
        self._kinds: tuple[Kind, ...] = ()
        self._announced: tuple[Kind, ...] | None = None
        self._due: ClusterConfig | None = None
        self._empty_at_s: dict[Kind, float] = {}
        self._listed: set[Kind] = set()
        self._changed = Wake()

    async def run(self) -> None:
        """Our store becomes what is wanted, until cancelled."""
        stores = {f"write-{kind}": copy.store.run() for kind, copy in self._copies.items()}
        await together({**stores, "settle": self._settle()})

    def stores(self) -> list[tuple[str, SharedStore, bool]]:
        """What is read back: nobody else writes copies of this peer."""
        return [(f"{self.name} {kind}", copy.store, False) for kind, copy in self._copies.items()]

    def written(self) -> Mapping[Kind, bool]:
        """Which kinds are complete in our store."""
        return {kind: copy.is_written for kind, copy in self._copies.items()}

    @property
    def is_written(self) -> bool:
        """Whether every kind that the peer publishes is complete in our store."""
        return bool(self._kinds) and all(self._copies[kind].is_written for kind in self._kinds)

    async def begin(self, config: ClusterConfig, kinds: Sequence[Kind]) -> None:
        """Readers find the peer's configuration before its records; kinds it does not publish are there, and empty."""
        for kind in kinds:
            self._empty_at_s.pop(kind, None)
        self._kinds, self._due, self._listed = tuple(kinds), config, set()
        if self._announced is None or set(kinds) <= set(self._announced):
            self._announce()
            while self._configs.pending:
                await self._clock.sleep(LOOK_S)
        self._changed.set()
        for kind, copy in self._copies.items():
            if kind not in kinds and not copy.is_written and kind not in (self._announced or ()):
                await copy.finish()

    def apply(self, kind: Kind, changes: Sequence[Change]) -> int:
        """What changed at the peer is wanted in our store."""
        self._copies[kind].apply(changes)
        return len(changes)

    async def listed(self, kind: Kind) -> None:
        """All records of this kind are wanted, and nothing else of it."""
        await self._copies[kind].finish()
        self._listed.add(kind)
        self._changed.set()

    def drain(self) -> None:
        """No record of the peer is wanted."""
        for copy in self._copies.values():
            copy.empty()
        self._empty_at_s.clear()
        self._kinds, self._announced = (), None

    def remove(self) -> None:
        """Readers are told at once that the peer is gone; its records are not renewed, and go after a grace."""
        self._configs.delete(self.name.encode())
        for copy in self._copies.values():
            copy.release()
        self._on_removed(self.name)

    async def _settle(self) -> None:
        """A new form is announced when it is copied, a former one emptied when readers had time to leave it."""
        while True:
            seen = self._changed.count
            now_s = self._clock.monotonic()
            if self._due is not None and self._is_copied():
                self._announce()
            for kind in [kind for kind, at_s in self._empty_at_s.items() if now_s >= at_s]:
                del self._empty_at_s[kind]
                self._copies[kind].empty()
                log.info("kind not published any more, copies removed", extra={"peer": self.name, "kind": str(kind)})
            is_waiting = self._due is not None or self._empty_at_s
            await wait_for_ring(self._changed, seen, TICK_S if is_waiting else None, self._clock)

    def _is_copied(self) -> bool:
        return all(kind in self._listed and not self._copies[kind].store.pending for kind in self._kinds)

    def _announce(self) -> None:
        if self._due is not None:
            self._configs.upsert(self.name.encode(), self._due.mirrored().encode())
            empty_at_s = self._clock.monotonic() + FORMER_KIND_S
            self._empty_at_s.update(dict.fromkeys(set(self._announced or ()) - set(self._kinds), empty_at_s))
            self._announced, self._due = self._kinds, None
