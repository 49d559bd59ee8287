# SPDX-License-Identifier: Apache-2.0
"""One kind of one peer's records, from its store into ours, bytes unchanged."""

from __future__ import annotations

from datetime import UTC, datetime

from kvstore.lease import LeaseSession
from kvstore.sharedstore import SharedStore
from kvstore.store import LeaseStore, Store
from kvstore.watchstore import WatchStore
from meshkit.clock import Clock
from meshkit.supervise import together
from meshmodel import keys
from meshmodel.keys import Kind
from meshmodel.names import ClusterName

PREFIXES = {
    Kind.NODES: keys.nodes_prefix,
    Kind.SERVICES: keys.services_prefix,
    Kind.IPS: keys.ips_prefix,
    Kind.IDENTITIES: keys.identities_prefix,
    Kind.ENDPOINT_SLICES: keys.endpointslices_prefix,
    Kind.SERVICE_EXPORTS: keys.serviceexports_prefix,
}


class _Raw:
    """Every value is a value."""

    def decode(self, _key: bytes, value: bytes) -> bytes:
        return value


class _Into:
    """What is seen is wanted."""

    def __init__(self, store: SharedStore) -> None:
        self._store = store

    def upsert(self, key: bytes, value: bytes) -> None:
        self._store.upsert(key, value)

    def delete(self, key: bytes, _value: bytes) -> None:
        self._store.delete(key)


class Copy:
    """Survives sessions: what was copied stays while the peer is away, and a new listing only writes differences."""

    def __init__(self, peer: ClusterName, kind: Kind, backend: LeaseStore, session: LeaseSession, clock: Clock) -> None:
        self._peer, self.kind, self._backend = peer, kind, backend
        self.target_prefix = PREFIXES[kind](peer, cached=True)
        canary = keys.synced_prefix(peer) + keys.canary_name(kind, cached=True)
        self.store = SharedStore(
            backend, session, self.target_prefix, canary, canary_value=lambda: _stamp(clock), clock=clock
        )
        self._seen: WatchStore[bytes] = WatchStore(_Raw(), _Into(self.store))

    @property
    def count(self) -> int:
        """How many records are copied."""
        return len(self.store.wanted)

    @property
    def is_listed(self) -> bool:
        """Whether the current session has seen everything there is."""
        return self._seen.synced.is_set()

    @property
    def is_connected(self) -> bool:
        """Whether changes of the peer reach us now."""
        return self._seen.is_connected

    async def follow(self, source: Store, *, cached: bool, has_canaries: bool) -> None:
        """Our store follows the peer's, until cancelled.

        Raises: Denied if the peer does not let us read.
        """
        canary = keys.synced_prefix(self._peer) + keys.canary_name(self.kind, cached=cached)
        prefix = PREFIXES[self.kind](self._peer, cached=cached)
        watching = self._seen.run(source, prefix, canary=canary if has_canaries else None)
        await together({f"copy-{self.kind}": watching, f"listed-{self.kind}": self._announce()})

    async def set_empty(self) -> None:
        """The peer does not have this kind: there is nothing, and that is certain."""
        self._seen.drain()
        await self._finish()

    async def _announce(self) -> None:
        await self._seen.synced.wait()
        await self._finish()

    async def _finish(self) -> None:
        """The first listing is complete: what an earlier copy of this peer left, and the peer has no more, goes."""
        if not self.store.synced.is_set():
            async for page in self._backend.list(self.target_prefix):
                for entry in page.entries:
                    key = entry.key.removeprefix(self.target_prefix)
                    if key not in self.store.wanted:
                        self.store.upsert(key, entry.value)  # known from here on, so that it can be taken back
                        self.store.delete(key)
        self.store.mark_synced()


def _stamp(clock: Clock) -> bytes:
    return datetime.fromtimestamp(clock.wall(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
