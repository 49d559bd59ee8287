# SPDX-License-Identifier: Apache-2.0
"""Wanted records kept equal in etcd: one store per kind on shared leases, a canary for each, our config, a heartbeat.

At the end nothing is removed: peers keep what they know until the leases run out or we are back.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from typing import Final

from kvstore.errors import Denied, KvError, LeaseLost
from kvstore.joined import JoinedWrites
from kvstore.lease import KEY_TTL_S, LeaseSession
from kvstore.limiter import Limiter
from kvstore.readback import keep_reading_back
from kvstore.sharedstore import SharedStore
from kvstore.store import ChangeKind as Change
from kvstore.store import Event, LeaseStore, Phase
from meshkit.backoff import Backoff
from meshkit.clock import Clock, SystemClock
from meshkit.patience import within
from meshkit.task_group import TaskGroup
from meshmodel import keys, private_keys
from meshmodel.keys import Kind
from meshmodel.names import ClusterName

log = logging.getLogger(__name__)

HEARTBEAT_S: Final = 60.0
CONFIG_REFRESH_S: Final = 300.0
BACKOFF_S: Final = (0.1, 5.0)

RECORDS: Final[Mapping[Kind, Callable[[str], bytes]]] = {
    Kind.NODES: keys.nodes_prefix,
    Kind.SERVICES: keys.services_prefix,
    Kind.IPS: keys.ips_prefix,
    Kind.IDENTITIES: keys.identities_prefix,
    Kind.ENDPOINT_SLICES: keys.endpointslices_prefix,
    Kind.SERVICE_EXPORTS: keys.serviceexports_prefix,
}


class Publisher:
    """Everything this cluster says, in one etcd. `stores` take what is wanted; `run` makes it so.

    `is_shared` if others write to this etcd too: their keys are left alone.
    `private` takes what only our own agents may read; marking one of these synced marks the public one of its kind.
    """

    def __init__(
        self,
        store: LeaseStore,
        cluster: ClusterName,
        config: bytes,
        kinds: Sequence[Kind],
        *,
        is_shared: bool = False,
        ttl_s: float = KEY_TTL_S,
        limiter: Limiter | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._rng = rng
        self._store, self._cluster, self._config = store, cluster, config
        self._clock, self._is_shared = clock or SystemClock(), is_shared
        self.session = LeaseSession(store, ttl_s=ttl_s, clock=self._clock, rng=rng)
        joined = JoinedWrites(store)
        self.stores: Mapping[Kind, SharedStore] = {
            kind: SharedStore(
                store,
                self.session,
                RECORDS[kind](cluster),
                keys.synced_prefix(cluster) + keys.canary_name(kind),
                canary_value=self._stamp,
                limiter=limiter,
                clock=self._clock,
                joined=joined,
            )
            for kind in kinds
        }
        self.private: Mapping[Kind, SharedStore] = {
            kind: SharedStore(
                store,
                self.session,
                private_keys.prefix_of(kind),
                private_keys.canary_key(kind),
                canary_value=self._stamp,
                limiter=limiter,
                clock=self._clock,
                joined=joined,
            )
            for kind in private_keys.PRIVATE_KINDS
        }
        self._config_key = keys.cluster_config_key(cluster)
        self._due = asyncio.Event()
        self._config_written_at = float("-inf")
        self.session.on_loss.append(self._on_loss)
        self.last_error = ""

    @property
    def is_synced(self) -> bool:
        """Whether every canary is written."""
        return all(store.synced.is_set() for store in self.stores.values())

    async def run(self) -> None:
        """Etcd says what is wanted, until cancelled; the cluster config comes before any record."""
        await self._retry_upkeep()
        async with TaskGroup() as group:
            group.create_task(self.session.run(), name="leases")
            group.create_task(self._keep_house(), name="heartbeat")
            group.create_task(self._guard_config(), name="cluster-config")
            group.create_task(keep_reading_back(self._written, self._clock), name="read-back")
            for kind, store in self.stores.items():
                group.create_task(store.run(), name=f"publish-{kind}")
            for kind, store in self.private.items():
                group.create_task(store.run(), name=f"publish-private-{kind}")
                group.create_task(self._follow_private(kind, store), name=f"announce-{kind}")

    async def _follow_private(self, kind: Kind, store: SharedStore) -> None:
        """Who reads both parts of a kind finds the private one complete when the public one is."""
        await store.synced.wait()
        self.stores[kind].mark_synced()

    def store_changed(self) -> None:
        """Another, or an emptied, etcd answers: everything is written again."""
        self.session.invalidate()
        self._on_loss(frozenset([self._config_key]))

    async def _keep_house(self) -> None:
        while True:
            with suppress(TimeoutError):
                await within(HEARTBEAT_S, self._due.wait())
            await self._retry_upkeep()

    async def _retry_upkeep(self) -> None:
        backoff = Backoff(*BACKOFF_S, self._rng)
        while True:
            self._due.clear()
            try:
                await self._upkeep()
            except (KvError, Denied) as exc:
                delay_s = backoff.next()
                if not self.last_error:
                    log.warning("heartbeat not written, retrying", extra={"error": repr(exc), "delay_s": delay_s})
                self.last_error = repr(exc)
                await self._clock.sleep(delay_s)
                continue
            self.last_error = ""
            return

    async def _upkeep(self) -> None:
        now = self._clock.monotonic()
        if now - self._config_written_at >= CONFIG_REFRESH_S:
            await self._put(self._config_key, self._config)
            self._config_written_at = now
        await self._put(keys.HEARTBEAT, self._stamp())

    async def _put(self, key: bytes, value: bytes) -> None:
        lease = next(iter(await self.session.bind([key])))
        try:
            await self._store.put(key, value, lease=lease)
        except LeaseLost:
            self.session.report_lost(lease)
            raise

    async def _guard_config(self) -> None:
        """Somebody else's change of our config is undone at once."""
        async with aclosing(self._store.list_and_watch(self._config_key)) as batches:
            is_listed = False
            async for batch in batches:
                if batch.phase is Phase.LISTING:
                    is_listed = False
                for event in batch.events:
                    if event.key == self._config_key:
                        is_listed = True
                        self._check_config(event)
                if batch.phase is Phase.LISTED and not is_listed:
                    self._rewrite_config()

    def _written(self) -> list[tuple[str, SharedStore, bool]]:
        """What is read back: records of ours, of which foreign ones are removed where nobody else writes."""
        stores = [*self.stores.items(), *self.private.items()]
        return [(kind.value, store, self._is_shared) for kind, store in stores]

    def _check_config(self, event: Event) -> None:
        if event.kind is Change.DELETE or event.value != self._config:
            log.warning("cluster config changed by somebody else, writing it again", extra={"cluster": self._cluster})
            self._rewrite_config()

    def _rewrite_config(self) -> None:
        self._config_written_at = float("-inf")
        self._due.set()

    def _on_loss(self, lost: frozenset[bytes]) -> None:
        if self._config_key in lost or keys.HEARTBEAT in lost:
            self._rewrite_config()

    def _stamp(self) -> bytes:
        return datetime.fromtimestamp(self._clock.wall(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
