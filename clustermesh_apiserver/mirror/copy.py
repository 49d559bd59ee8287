# SPDX-License-Identifier: Apache-2.0
"""One kind of one peer's records in our own store, bytes unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from kvstore.lease import LeaseSession
from kvstore.sharedstore import SharedStore
from kvstore.store import LeaseStore
from meshkit.clock import Clock
from meshmodel import keys
from meshmodel.keys import Kind
from meshmodel.names import ClusterName
from meshpeer.consumer import Change


class Copy:
    """Survives sessions: what was copied stays while the peer is away, and a new listing only writes differences."""

    def __init__(self, peer: ClusterName, kind: Kind, store: LeaseStore, session: LeaseSession, clock: Clock) -> None:
        self.kind, self._own, self._session = kind, store, session
        self._prefix = keys.prefix_of(kind, peer, cached=True)
        canary = keys.canary_key(peer, kind, cached=True)
        self.store = SharedStore(store, session, self._prefix, canary, canary_value=lambda: _stamp(clock), clock=clock)

    @property
    def is_written(self) -> bool:
        """Whether everything the peer had at the start is in our store."""
        return self.store.synced.is_set()

    def apply(self, changes: Sequence[Change]) -> None:
        """What changed is wanted, or is not any more."""
        store = self.store
        for key, value in changes:
            if value is None:
                store.delete(key)
            else:
                store.upsert(key, value)

    async def finish(self) -> None:
        """Everything the peer has is wanted: what an earlier copy of this peer left, and the peer has no more, goes.

        Raises: KvError when our own store cannot be listed.
        """
        if not self.store.synced.is_set():
            async for page in self._own.list(self._prefix):
                for entry in page.entries:
                    key = entry.key.removeprefix(self._prefix)
                    if key not in self.store.wanted:
                        self.store.upsert(key, entry.value)  # known from here on, so that it can be taken back
                        self.store.delete(key)
        self.store.mark_synced()

    def empty(self) -> None:
        """Nothing is wanted."""
        for key in list(self.store.wanted):
            self.store.delete(key)

    def release(self) -> None:
        """What is written is not renewed any more."""
        for key in self.store.wanted:
            self._session.release(self._prefix + key)


def _stamp(clock: Clock) -> bytes:
    return datetime.fromtimestamp(clock.wall(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
