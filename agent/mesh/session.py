# SPDX-License-Identifier: Apache-2.0
"""One attempt to follow one cluster's store: connect, judge its configuration, then list and watch every kind of record.

What is known outlives the attempt: the views and rows belong to the ingest. An attempt ends by raising; the runner tries again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from agent.mesh.ingest import Ingest
from agent.mesh.state import SessionRecord
from kvstore.errors import Denied
from kvstore.store import Batch, Phase, Store
from meshapi.peer import PeerState
from meshkit.clock import Clock
from meshkit.errors import MeshError, TransientError
from meshkit.wake import Wake, wait_for_ring
from meshmodel import cluster_config, keys, private_keys
from meshmodel.cluster_config import ClusterConfig, ExportMode
from meshmodel.keys import Kind
from meshmodel.names import ClusterName

log = logging.getLogger(__name__)

CONFIG_WAIT_S: Final = 180.0
CONFIG_STEP_MAX_S: Final = 5.0
CONFIG_RECHECK_S: Final = 60.0
HEARTBEAT_SILENCE_S: Final = 120.0
INTERRUPTED_LIMIT_S: Final = 15.0
NODES_FIRST_S: Final = 5.0
EVENTS_PER_TURN: Final = 1_000
TICK_S: Final = 1.0


class SessionEndedError(TransientError):
    """The attempt is over; what was known stays known."""


class Reservations(Protocol):
    """Judges a cluster's configuration against everybody else's and holds its id."""

    def accept(self, name: ClusterName, config: ClusterConfig) -> None:
        """The id is the cluster's from here on. Raises: ModelError saying what is wrong and how to fix it."""
        ...


Connect = Callable[[], Awaitable[Store]]


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What an operator may change."""

    heartbeat_silence_s: float = HEARTBEAT_SILENCE_S
    config_wait_s: float = CONFIG_WAIT_S
    prefer_slices: bool = False
    certificate_directory: Path | None = None


class Session:
    """Runs one attempt at a time for one cluster."""

    def __init__(
        self,
        state: SessionRecord,
        ingest: Ingest,
        *,
        connect: Connect,
        reservations: Reservations,
        clock: Clock,
        options: SessionOptions | None = None,
    ) -> None:
        self._state, self._ingest, self._connect = state, ingest, connect
        self._reservations, self._clock, self._options = reservations, clock, options or SessionOptions()
        self._standing: set[bytes] = set()
        self._interrupted_s: float | None = None
        self._recheck, self._was_listed = Wake(), Wake()

    def _note_store(self, backend: Store) -> None:
        """The state names the store that answers, now and whenever another one takes its place."""

        def note() -> None:
            self._state.store_id = getattr(backend, "cluster_id", 0)

        note()
        listeners: list[Callable[[], None]] = getattr(backend, "on_store_change", [])
        listeners.append(note)

    async def run(self) -> None:
        """Follow the cluster until the attempt fails. Raises: MeshError."""
        self._standing.clear()
        self._interrupted_s = self._clock.monotonic()
        backend = await self._connect()
        try:
            config = await self._fetch_config(backend)
            self._accept(config)
            self._note_store(backend)
            await self._follow(backend, config)
        finally:
            self._lose("session ended")
            async with asyncio.timeout(5):
                await backend.close()

    async def _fetch_config(self, backend: Store) -> ClusterConfig:
        """The cluster's configuration record; waits for it, since a starting cluster has none yet."""
        deadline_s = self._clock.monotonic() + self._options.config_wait_s
        step_s = 0.25
        while True:
            found = await self._read_config(backend)
            if found is not None:
                return found
            self._state.reason = "waiting for the cluster configuration to be published"
            if self._clock.monotonic() + step_s > deadline_s:
                raise SessionEndedError(f"no cluster configuration within {self._options.config_wait_s:.0f} s")
            await self._clock.sleep(step_s)
            step_s = min(step_s * 2, CONFIG_STEP_MAX_S)

    async def _read_config(self, backend: Store) -> ClusterConfig | None:
        key = keys.cluster_config_key(self._state.name)
        entry = await backend.get(key)
        return None if entry is None else cluster_config.decode(entry.value, cluster=self._state.name)

    def _accept(self, config: ClusterConfig) -> None:
        """Nothing of a former id is left before the new one is asked for (spec/wire 4.4)."""
        if self._ingest.is_new_id(config):
            log.warning("cluster id changed, draining", extra={"peer": self._state.name})
            self._ingest.drain()
        self._state.config = None
        self._reservations.accept(self._state.name, config)
        self._state.config = config
        kinds = self._kinds(config)
        self._state.kinds = tuple(kinds)
        self._ingest.begin(config, kinds)
        self._state.state, self._state.reason = PeerState.SYNCING, ""

    def _kinds(self, config: ClusterConfig) -> list[Kind]:
        if self._state.is_own:
            return [Kind.NODES, Kind.IDENTITIES, Kind.IPS]
        offers_slices = config.export_mode is not ExportMode.SERVICES
        services = Kind.ENDPOINT_SLICES if self._options.prefer_slices and offers_slices else Kind.SERVICES
        return [Kind.NODES, Kind.IDENTITIES, services, Kind.IPS]

    async def _follow(self, backend: Store, config: ClusterConfig) -> None:
        """Every kind of record, the heartbeat and the configuration, until one of them says that the attempt is over."""
        self._state.last_heartbeat_s = self._clock.monotonic()
        nodes_listed = Wake()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._beat(backend), name=f"{self._state.name} heartbeat")
                group.create_task(self._watchdog(), name=f"{self._state.name} watchdog")
                group.create_task(self._watch_config(backend, config), name=f"{self._state.name} config")
                for kind in self._state.kinds:
                    group.create_task(
                        self._watch_kind(backend, config, kind, nodes_listed), name=f"{self._state.name} {kind}"
                    )
                    if self._has_private(kind):
                        group.create_task(self._watch_private(backend, kind), name=f"{self._state.name} private {kind}")
        except BaseExceptionGroup as failures:
            raise _first(failures) from None

    async def _watch_kind(self, backend: Store, config: ClusterConfig, kind: Kind, nodes_listed: Wake) -> None:
        """Nodes first: what other records may claim is judged by them. A cluster that never lists them is not waited for."""
        if kind is not Kind.NODES:
            await wait_for_ring(nodes_listed, 0, NODES_FIRST_S, self._clock)
        cached = config.cached
        canary = None
        if config.synced_canaries:
            canary = keys.canary_key(self._state.name, kind, cached=cached)
        view = self._ingest.view(kind, keys.prefix_of(kind, self._state.name, cached=cached))
        async with aclosing(backend.list_and_watch(view.prefix, canary=canary)) as batches:
            async for batch in batches:
                self._note(view.prefix, batch)
                await self._take(kind, batch)
                if batch.phase is Phase.LISTED and kind is Kind.NODES:
                    nodes_listed.set()

    def _has_private(self, kind: Kind) -> bool:
        return self._state.is_own and kind in private_keys.PRIVATE_KINDS

    async def _watch_private(self, backend: Store, kind: Kind) -> None:
        """Our own records that peers must not know. Whoever writes them has written all when the public ones are listed."""
        while not self._state.synced.get(kind):
            await self._was_listed.wait(self._was_listed.count)
        canary = private_keys.canary_key(kind)
        try:
            if await backend.get(canary) is None:
                self._ingest.listed(kind)
            view = self._ingest.view(kind, private_keys.prefix_of(kind), is_private=True)
            async with aclosing(backend.list_and_watch(view.prefix, canary=canary)) as batches:
                async for batch in batches:
                    await self._apply(kind, batch, is_private=True)
                    if batch.phase is Phase.LISTED:
                        self._ingest.listed(kind)
        except Denied:  # a store without a private part
            self._ingest.listed(kind)

    async def _apply(self, kind: Kind, batch: Batch, *, is_private: bool = False) -> None:
        """A batch becomes transactions of bounded size; other tasks get a turn between them."""
        if len(batch.events) <= EVENTS_PER_TURN:
            self._ingest.apply(kind, batch, is_private=is_private)
            return
        for start in range(0, len(batch.events), EVENTS_PER_TURN):
            part = batch._replace(events=batch.events[start : start + EVENTS_PER_TURN])
            self._ingest.apply(kind, part, is_private=is_private)
            await asyncio.sleep(0)

    async def _take(self, kind: Kind, batch: Batch) -> None:
        await self._apply(kind, batch)
        if batch.events or batch.phase is Phase.LISTED:
            self._state.counts[kind] = self._ingest.count(kind)
            self._state.last_update_wall_s = self._clock.wall()
            self._state.revision = max(self._state.revision, batch.revision)
        if batch.phase is Phase.LISTED and not self._state.synced.get(kind):
            self._state.synced[kind] = True
            self._was_listed.set()
            if not self._has_private(kind):
                self._ingest.listed(kind)
        if self._state.is_ready and self._state.state is PeerState.SYNCING:
            self._state.state, self._state.reason = PeerState.READY, ""
            log.info("peer ready", extra={"peer": self._state.name, "revision": self._state.revision})

    async def _beat(self, backend: Store) -> None:
        async with aclosing(backend.list_and_watch(keys.HEARTBEAT)) as batches:
            async for batch in batches:
                self._note(keys.HEARTBEAT, batch)
                if batch.events:
                    self._state.last_heartbeat_s = self._clock.monotonic()

    async def _watchdog(self) -> None:
        """Only the heartbeat tells whether a remote store lives; a connection that stays down is made anew."""
        while True:
            await self._clock.sleep(TICK_S)
            now_s = self._clock.monotonic()
            if now_s - self._state.last_heartbeat_s > self._options.heartbeat_silence_s:
                raise SessionEndedError(f"no heartbeat for {self._options.heartbeat_silence_s:.0f} s")
            if self._interrupted_s is not None and now_s - self._interrupted_s > INTERRUPTED_LIMIT_S:
                raise SessionEndedError("the store is not reachable")

    async def _watch_config(self, backend: Store, config: ClusterConfig) -> None:
        """A cluster that was given another id or layout is met again from the start."""
        while True:
            await wait_for_ring(self._recheck, self._recheck.count, CONFIG_RECHECK_S, self._clock)
            found = await self._read_config(backend)
            if found is not None and found != config:
                raise SessionEndedError("the cluster configuration changed")

    def _note(self, stream: bytes, batch: Batch) -> None:
        """Keep count of which streams stand: the session is connected while one does."""
        if batch.phase is Phase.INTERRUPTED:
            self._standing.discard(stream)
            if not self._standing:
                self._interrupted_s = self._clock.monotonic()
                self._lose("connection to the store lost")
            return
        self._standing.add(stream)
        self._interrupted_s = None
        state = self._state
        if state.is_connected:
            return
        state.is_connected, state.control_lost_s = True, None
        state.session_since_wall_s = self._clock.wall()
        is_back = state.is_ready
        state.state = PeerState.READY if is_back else PeerState.SYNCING
        state.reason = ""
        self._recheck.set()

    def _lose(self, reason: str) -> None:
        state = self._state
        if state.control_lost_s is None:
            state.control_lost_s = self._clock.monotonic()
        if state.is_connected:
            state.is_connected = False
            state.state = PeerState.DISCONNECTED if state.is_synced else PeerState.CONNECTING
            state.reason = f"{reason}; last known state is kept"


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure that ended the attempt: ours before a stranger's, never only a cancellation."""
    flat = [e for e in failures.exceptions if not isinstance(e, BaseExceptionGroup)]
    return next((e for e in flat if isinstance(e, MeshError)), flat[0] if flat else failures)
