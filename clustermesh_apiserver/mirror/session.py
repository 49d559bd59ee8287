# SPDX-License-Identifier: Apache-2.0
"""One peer: connected again and again, believed about nothing but what to copy, copied kind by kind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Final

from clustermesh_apiserver.mirror.copy import Copy
from kvstore.errors import Denied, KvError, Rejected, Unavailable
from kvstore.lease import LeaseSession
from kvstore.sharedstore import SharedStore
from kvstore.store import Kind as Change
from kvstore.store import LeaseStore, Store
from meshapi.peer import PeerState, RemoteCluster, RemoteClusterConfig, RemoteClusterSynced
from meshkit.backoff import Backoff
from meshkit.clock import Clock
from meshkit.errors import TransientError
from meshkit.supervise import supervise, together
from meshmodel import cluster_config, keys
from meshmodel.cluster_config import ClusterConfig, check_peer_config
from meshmodel.errors import ModelError
from meshmodel.keys import Kind
from meshmodel.names import ClusterId, ClusterName

log = logging.getLogger(__name__)

CONFIG_WAIT_S: Final = 180.0
CONFIG_POLL_S: Final = 1.0
CONFIG_CHECK_S: Final = 10.0
CONFIRM_S: Final = 1.0
LOST_LIMIT_S: Final = 10.0
HEARTBEAT_SILENCE_S: Final = 120.0
BACKOFF_S: Final = (0.5, 5.0)
ALWAYS: Final = (Kind.NODES, Kind.SERVICES, Kind.IPS, Kind.IDENTITIES)
RETRIED: Final = (OSError, TransientError, Denied, Rejected, ModelError)

Connect = Callable[[], Awaitable[Store]]


class PeerMirror:
    """Everything copied of one peer, and how its session stands."""

    def __init__(
        self,
        name: ClusterName,
        backend: LeaseStore,
        session: LeaseSession,
        configs: SharedStore,
        *,
        local_id: int,
        maximum: int,
        taken: Callable[[], Mapping[ClusterId, ClusterName]],
        clock: Clock,
    ) -> None:
        self.name, self._configs, self._clock = name, configs, clock
        self._local_id, self._maximum, self._taken = local_id, maximum, taken
        self.copies = {kind: Copy(name, kind, backend, session, clock) for kind in Kind}
        self.config: ClusterConfig | None = None
        self._failures, self._last_failure_s, self._last_error = 0, 0.0, ""
        self._session_since_s, self._is_up = 0.0, False
        self._confirmed_s = 0.0

    async def run(self, connect: Connect) -> None:
        """Our store follows the peer's for as long as this runs."""
        stores = {f"write-{kind}": copy.store.run() for kind, copy in self.copies.items()}
        await together({**stores, "session": self._keep_session(connect), "age": self._keep_age()})

    @property
    def is_connected(self) -> bool:
        """Whether every change of the peer reaches us now."""
        return self._is_up and all(self.copies[kind].is_connected for kind in ALWAYS)

    @property
    def is_copied(self) -> bool:
        """Whether everything the peer had at the start is in our store."""
        return all(self.copies[kind].store.synced.is_set() for kind in ALWAYS)

    def status(self) -> RemoteCluster:
        """How this peer stands, in the shape everybody knows."""
        config, now = self.config, self._clock.wall()
        counts = {kind: copy.count for kind, copy in self.copies.items()}
        listed = {kind: copy.store.synced.is_set() for kind, copy in self.copies.items()}
        connected = self.is_connected
        if connected:
            self._confirmed_s = now
        reason = self._last_error or ("connection lost" if self._session_since_s and not connected else "")
        return RemoteCluster(
            name=self.name,
            ready=connected and self.is_copied,
            connected=connected,
            status=reason or ("mirrored" if connected else "Waiting for initial connection to be established"),
            state=self._state(connected=connected),
            reason=reason,
            num_nodes=counts[Kind.NODES],
            num_shared_services=counts[Kind.SERVICES],
            num_endpoints=counts[Kind.IPS],
            num_identities=counts[Kind.IDENTITIES],
            num_endpoint_slices=counts[Kind.ENDPOINT_SLICES],
            num_service_exports=counts[Kind.SERVICE_EXPORTS],
            num_failures=self._failures,
            last_failure=self._last_failure_s,
            last_error=self._last_error,
            session_since=self._session_since_s if connected else 0.0,
            last_update=self._confirmed_s,
            age_s=now - self._confirmed_s if self._confirmed_s else None,
            config=_config_status(config),
            synced=RemoteClusterSynced(
                nodes=listed[Kind.NODES],
                services=listed[Kind.SERVICES],
                identities=listed[Kind.IDENTITIES],
                endpoints=listed[Kind.IPS],
                endpoint_slices=listed[Kind.ENDPOINT_SLICES] if _has_slices(config) else None,
                service_exports=listed[Kind.SERVICE_EXPORTS] if _has_exports(config) else None,
            ),
        )

    async def _keep_age(self) -> None:
        """What is known was true when we were last connected."""
        while True:
            if self.is_connected:
                self._confirmed_s = self._clock.wall()
            await self._clock.sleep(CONFIRM_S)

    async def _keep_session(self, connect: Connect) -> None:
        backoff = Backoff(*BACKOFF_S)
        await supervise(
            f"mirror of {self.name}",
            lambda: self._session(connect),
            backoff=backoff,
            clock=self._clock,
            retry_on=RETRIED,
            on_failure=self._failed,
        )

    async def _session(self, connect: Connect) -> None:
        source = await connect()
        try:
            raw = await self._read_config(source)
            config = cluster_config.decode(raw, cluster=self.name)
            check_peer_config(
                config, local_id=self._local_id, local_maximum=self._maximum, taken=self._taken(), peer=self.name
            )
            self.config = config
            self._configs.upsert(self.name.encode(), config.mirrored().encode())
            await self._written()
            self._is_up, self._session_since_s, self._last_error = True, self._clock.wall(), ""
            jobs = {f"copy-{kind}": self._copy(kind, source, config) for kind in Kind}
            jobs |= {
                "heartbeat": _beats(source),
                "config": self._config_changed(source, raw),
                "loss": self._stay_lost(),
            }
            await together(jobs)
        finally:
            self._is_up = False
            await source.close()

    async def _copy(self, kind: Kind, source: Store, config: ClusterConfig) -> None:
        copy = self.copies[kind]
        missing = (kind is Kind.SERVICE_EXPORTS and not _has_exports(config)) or (
            kind is Kind.ENDPOINT_SLICES and not _has_slices(config)
        )
        if missing:
            await copy.set_empty()
        else:
            await copy.follow(source, cached=config.cached, has_canaries=config.synced_canaries)

    async def _read_config(self, source: Store) -> bytes:
        """The peer may still be starting: its config comes first of all it writes. Only the exact key may be read."""
        deadline = self._clock.monotonic() + CONFIG_WAIT_S
        while self._clock.monotonic() < deadline:
            entry = await source.get(keys.cluster_config_key(self.name))
            if entry is not None:
                return entry.value
            await self._clock.sleep(CONFIG_POLL_S)
        raise Unavailable(f"no cluster config for {CONFIG_WAIT_S:g} s")

    async def _config_changed(self, source: Store, known: bytes) -> None:
        while True:
            await self._clock.sleep(CONFIG_CHECK_S)
            try:
                entry = await source.get(keys.cluster_config_key(self.name))
            except KvError:
                continue  # the copies notice a lost connection by themselves
            if entry is not None and entry.value != known:
                raise Unavailable("the peer changed its cluster config")

    async def _stay_lost(self) -> None:
        """Raises Unavailable when the connection stays lost: the next one takes certificates and addresses as they are then."""
        lost_s: float | None = None
        while not any(self.copies[kind].is_listed for kind in ALWAYS):
            await self._clock.sleep(CONFIRM_S)  # one that is still filling its store is waited for
        while True:
            await self._clock.sleep(CONFIRM_S)
            if self.is_connected:
                lost_s = None
                continue
            lost_s = self._clock.monotonic() if lost_s is None else lost_s
            if self._clock.monotonic() - lost_s >= LOST_LIMIT_S:
                raise Unavailable(f"connection lost for {LOST_LIMIT_S:g} s")

    async def _written(self) -> None:
        """Readers find the config of a mirrored peer before its records."""
        while self._configs.pending:
            await self._clock.sleep(0.01)

    def _failed(self, error: BaseException, _delay_s: float) -> None:
        self._failures += 1
        self._last_failure_s, self._last_error = self._clock.wall(), str(error)[:256]

    def _state(self, *, connected: bool) -> PeerState:
        if connected:
            return PeerState.READY if self.is_copied else PeerState.SYNCING
        return PeerState.DISCONNECTED if self._session_since_s else PeerState.CONNECTING


async def _beats(source: Store) -> None:
    """Raises Unavailable when the peer's heartbeat has been silent for too long."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(HEARTBEAT_SILENCE_S) as limit:
            async for value in _values(source, keys.HEARTBEAT):
                if value is not None:
                    limit.reschedule(loop.time() + HEARTBEAT_SILENCE_S)
    except TimeoutError:
        raise Unavailable(f"no heartbeat for {HEARTBEAT_SILENCE_S:g} s") from None


async def _values(source: Store, key: bytes) -> AsyncGenerator[bytes | None, None]:
    """The value of one key, at first and whenever it is written; None where it is not there."""
    async with aclosing(source.list_and_watch(key)) as batches:
        async for batch in batches:
            for event in batch.events:
                if event.key == key:
                    yield None if event.kind is Change.DELETE else event.value


def _has_slices(config: ClusterConfig | None) -> bool:
    return config is not None and bool(config.endpoint_slices_export_mode)


def _has_exports(config: ClusterConfig | None) -> bool:
    return config is not None and config.service_exports_enabled is not None


def _config_status(config: ClusterConfig | None) -> RemoteClusterConfig:
    if config is None:
        return RemoteClusterConfig()
    return RemoteClusterConfig(
        retrieved=True,
        cluster_id=config.id,
        kvstoremesh=config.cached,
        sync_canaries=config.synced_canaries,
        service_exports_enabled=config.service_exports_enabled,
        endpoint_slices_export_mode=config.endpoint_slices_export_mode,
    )
