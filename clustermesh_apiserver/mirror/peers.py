# SPDX-License-Identifier: Apache-2.0
"""Which peers are mirrored: one session per connection file, started and stopped as files come, change and go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from clustermesh_apiserver.mirror.drain import GRACE_S, drain
from clustermesh_apiserver.mirror.leader import lead
from clustermesh_apiserver.mirror.session import PeerMirror
from kvstore.clientconfig import is_client_config, parse_client_config
from kvstore.lease import KEY_TTL_S, LeaseSession
from kvstore.sharedstore import SharedStore
from kvstore.store import LeaseStore, Store
from meshapi.peer import RemoteCluster
from meshkit.backoff import Backoff
from meshkit.clock import Clock, SystemClock
from meshkit.filewatch import watch_directory
from meshkit.supervise import supervise, together
from meshmodel import keys
from meshmodel.errors import ModelError
from meshmodel.names import ClusterId, ClusterName, parse_cluster_name

log = logging.getLogger(__name__)

PEER_READY_S: Final = 5.0
MAX_FILE_BYTES: Final = 1 << 20
BACKOFF_S: Final = (0.5, 15.0)


class Mirror:
    """All mirrored peers of one run of our store."""

    def __init__(
        self,
        backend: LeaseStore,
        directory: Path,
        own: ClusterName,
        *,
        local_id: int,
        maximum: int,
        ttl_s: float = KEY_TTL_S,
        grace_s: float = GRACE_S,
        clock: Clock | None = None,
    ) -> None:
        self._backend, self._directory, self._own = backend, directory, own
        self._local_id, self._maximum, self._grace_s = local_id, maximum, grace_s
        self._clock = clock or SystemClock()
        self._session = LeaseSession(backend, ttl_s=ttl_s, clock=self._clock)
        self._configs = SharedStore(backend, self._session, keys.CLUSTER_CONFIG_PREFIX, None, clock=self._clock)
        self._peers: dict[ClusterName, PeerMirror] = {}
        self._contents: dict[ClusterName, bytes] = {}
        self._tasks: dict[ClusterName, asyncio.Task[None]] = {}
        self._draining: dict[ClusterName, asyncio.Task[None]] = {}
        self._started = self._clock.monotonic()
        self.refused: dict[str, str] = {}
        self.is_leader = False

    async def run(self) -> None:
        """Leads if nobody else does, and then mirrors every configured peer, until cancelled."""
        backoff = Backoff(*BACKOFF_S)
        await supervise(
            "mirror", lambda: lead(self._backend, self._clock, self._work), backoff=backoff, clock=self._clock
        )

    def store_changed(self) -> None:
        """Another, or an emptied, etcd answers: everything is written again."""
        self._session.invalidate()

    def statuses(self) -> list[RemoteCluster]:
        """Every mirrored peer."""
        return [self._peers[name].status() for name in sorted(self._peers)]

    def blocking(self) -> list[str]:
        """The peers that readiness should still wait for: none for longer than a bounded time."""
        if self._clock.monotonic() - self._started >= PEER_READY_S:
            return []
        return [name for name, peer in sorted(self._peers.items()) if not peer.is_copied]

    async def _work(self) -> None:
        self.is_leader = True
        try:
            await together(
                {"leases": self._session.run(), "configs": self._configs.run(), "directory": self._follow_directory()}
            )
        finally:
            self.is_leader = False

    async def _follow_directory(self) -> None:
        async with asyncio.TaskGroup() as group:
            try:
                async for _ in watch_directory(self._directory):
                    await self._set_peers(await asyncio.to_thread(self._read), group)
            finally:
                self._peers.clear()
                self._contents.clear()
                self._tasks.clear()
                self._draining.clear()

    async def _set_peers(self, found: Mapping[ClusterName, bytes], group: asyncio.TaskGroup) -> None:
        for name in [name for name in self._contents if name not in found]:
            await self._remove(name, group)
        for name, content in found.items():
            if self._contents.get(name) != content:
                await self._start(name, content, group)

    async def _start(self, name: ClusterName, content: bytes, group: asyncio.TaskGroup) -> None:
        """A changed file is a new session of the same copies."""
        await _stop(self._draining.pop(name, None))
        await _stop(self._tasks.pop(name, None))
        if name not in self._peers:
            self._peers[name] = PeerMirror(
                name,
                self._backend,
                self._session,
                self._configs,
                local_id=self._local_id,
                maximum=self._maximum,
                taken=self._taken,
                clock=self._clock,
            )
        self._contents[name] = content

        async def connect() -> Store:
            return parse_client_config(content, self._directory).connect()

        self._tasks[name] = group.create_task(self._peers[name].run(connect), name=f"mirror-{name}")

    async def _remove(self, name: ClusterName, group: asyncio.TaskGroup) -> None:
        del self._contents[name]
        await _stop(self._tasks.pop(name))
        peer = self._peers.pop(name)
        self._configs.delete(name.encode())
        for copy in peer.copies.values():
            for key in copy.store.wanted:
                self._session.release(copy.target_prefix + key)
        log.info("peer removed, its records go after the grace", extra={"peer": name, "delay_s": self._grace_s})
        draining = drain(self._backend, name, self._clock, grace_s=self._grace_s)
        self._draining[name] = group.create_task(draining, name=f"drain-{name}")

    def _taken(self) -> Mapping[ClusterId, ClusterName]:
        return {peer.config.id: peer.name for peer in self._peers.values() if peer.config is not None}

    def _read(self) -> Mapping[ClusterName, bytes]:
        """Every connection file; one whose name is no cluster name is refused, one that is gone or empty is no peer."""
        found: dict[ClusterName, bytes] = {}
        refused: dict[str, str] = {}
        entries = sorted(self._directory.iterdir()) if self._directory.is_dir() else []
        for entry in entries:
            content = _content(entry)
            if not is_client_config(content) or entry.name == self._own:
                continue
            try:
                found[parse_cluster_name(entry.name)] = content
            except ModelError as exc:
                refused[entry.name] = str(exc)
        self.refused = refused
        return found


async def _stop(task: asyncio.Task[None] | None) -> None:
    """The task has ended: two sessions never write the same copies."""
    if task is not None:
        task.cancel()
        await asyncio.wait([task])


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES)
    except OSError:
        return b""
