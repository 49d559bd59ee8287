# SPDX-License-Identifier: Apache-2.0
"""Which peers are mirrored: a copy per configured peer, written by the one replica that leads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from clustermesh_apiserver.mirror.drain import GRACE_S, drain
from clustermesh_apiserver.mirror.leader import lead
from clustermesh_apiserver.mirror.peer_copy import PeerCopy
from kvstore.lease import KEY_TTL_S, LeaseSession
from kvstore.process import DEFAULT_QUOTA_BYTES
from kvstore.readback import keep_reading_back
from kvstore.sharedstore import SharedStore
from kvstore.store import LeaseStore
from meshapi.peer import RemoteCluster
from meshkit.backoff import Backoff
from meshkit.clock import Clock, SystemClock
from meshkit.supervise import supervise, together
from meshkit.task_group import TaskGroup
from meshmodel import keys
from meshmodel.names import ClusterName
from meshpeer.caps import Caps
from meshpeer.connection import StoreConnector
from meshpeer.follower import RETRY_S, Connector, Follower
from meshpeer.outside import Outside
from meshpeer.reservations import Own
from meshpeer.session import SessionOptions
from meshpeer.status import remote_cluster

log = logging.getLogger(__name__)

PEER_READY_S: Final = 5.0
CHANGES_PER_S: Final = 5_000.0  # a copy costs less than an agent's judgement
BYTES_PER_S: Final = float(1 << 20)


class Mirror:
    """All mirrored peers of one run of our store. `directory` holds one connection file per peer.

    Peers never fill our store: of its `quota_bytes` (0: not known) one peer may use half, all of them three quarters.
    """

    def __init__(
        self,
        store: LeaseStore,
        directory: Path,
        own: Own,
        *,
        ttl_s: float = KEY_TTL_S,
        grace_s: float = GRACE_S,
        clock: Clock | None = None,
        connect: Connector | None = None,
        options: SessionOptions | None = None,
        quota_bytes: int = 0,
        outside: Outside | None = None,
    ) -> None:
        self._outside = outside or Outside()
        self._store, self._directory, self._own, self._grace_s = store, directory, own, grace_s
        self._clock = clock or SystemClock()
        connector = StoreConnector(directory, dial=self._outside.dial, clock=self._clock)
        self._connect, self._connector = connect or connector, None if connect else connector
        self._options = replace(options or capped_by(quota_bytes), everything=True, nodes_first_s=0.0)
        self.session = LeaseSession(store, ttl_s=ttl_s, clock=self._clock, rng=self._outside.rng)
        self._configs = SharedStore(store, self.session, keys.CLUSTER_CONFIG_PREFIX, None, clock=self._clock)
        self._configs.mark_synced()  # what is beside those of our peers is somebody else's
        self._follower: Follower[PeerCopy] | None = None
        self._writing: dict[ClusterName, asyncio.Task[None]] = {}
        self._draining: dict[ClusterName, asyncio.Task[None]] = {}
        self._started = self._clock.monotonic()

    async def run(self) -> None:
        """Leads if nobody else does, and then mirrors every configured peer, until cancelled."""
        backoff = Backoff(*RETRY_S, self._outside.rng)
        await supervise(
            "mirror", lambda: lead(self._store, self._clock, self._work), backoff=backoff, clock=self._clock
        )

    @property
    def refused(self) -> Mapping[str, str]:
        """Files of the directory that are no peers, and why."""
        return self._follower.refused if self._follower is not None else {}

    def store_changed(self) -> None:
        """Another, or an emptied, etcd answers: everything is written again."""
        self.session.invalidate()

    def statuses(self) -> list[RemoteCluster]:
        """Every mirrored peer: ready when everything it has is written to our store."""
        if self._follower is None:
            return []
        now_s = self._clock.monotonic()
        return [remote_cluster(m.state, now_s, synced=m.consumer.written()) for m in self._follower.peers()]

    def blocking(self) -> list[str]:
        """The peers that readiness should still wait for: none for longer than a bounded time."""
        if self._follower is None or self._clock.monotonic() - self._started >= PEER_READY_S:
            return []
        return [member.state.name for member in self._follower.peers() if not member.consumer.is_written]

    async def _work(self) -> None:
        jobs = {"leases": self.session.run(), "configs": self._configs.run(), "peers": self._follow()}
        jobs["read-back"] = keep_reading_back(self._written, self._clock)
        try:
            await together(jobs)
        finally:
            self._follower = None

    def _written(self) -> list[tuple[str, SharedStore, bool]]:
        """What is read back: the copies of each peer that is written now, and cluster configurations, which others write too."""
        members = self._follower.peers() if self._follower is not None else []
        copies = [member.consumer for member in members if member.consumer.name in self._writing]
        return [("cluster-config", self._configs, True), *(store for copy in copies for store in copy.stores())]

    async def _follow(self) -> None:
        async with TaskGroup() as group:
            self._follower = Follower(
                self._own,
                self._directory,
                self._connect,
                lambda name: self._copy(name, group),
                self._clock,
                options=self._options,
                explain=self._connector.explain if self._connector else None,
                certificate_end=self._connector.certificate_end if self._connector else None,
                rng=self._outside.rng,
            )
            try:
                await self._follower.run(self._outside.watch(self._directory))
            finally:
                self._writing.clear()
                self._draining.clear()

    def _copy(self, name: ClusterName, group: TaskGroup) -> PeerCopy:
        """A peer that is configured again is copied over what is left of it."""
        draining = self._draining.pop(name, None)
        if draining is not None:
            draining.cancel()
        copy = PeerCopy(
            name,
            self._store,
            self.session,
            self._configs,
            self._clock,
            on_removed=lambda removed: self._removed(removed, group),
        )
        self._writing[name] = group.create_task(copy.run(), name=f"mirror-{name}")
        return copy

    def _removed(self, name: ClusterName, group: TaskGroup) -> None:
        writing = self._writing.pop(name)
        writing.cancel()
        log.info("peer removed, its records go after the grace", extra={"peer": name, "delay_s": self._grace_s})
        draining = drain(self._store, name, self._clock, grace_s=self._grace_s)
        self._draining[name] = group.create_task(draining, name=f"drain-{name}")


def capped_by(quota_bytes: int) -> SessionOptions:
    """What peers may use of a store that takes so many bytes; a record takes up to twice its size in it."""
    quota = quota_bytes or DEFAULT_QUOTA_BYTES
    return SessionOptions(
        caps=Caps(size_bytes=quota // 4, changes_per_s=CHANGES_PER_S, bytes_per_s=BYTES_PER_S),
        total_bytes=quota * 3 // 8,
    )
