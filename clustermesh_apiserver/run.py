# SPDX-License-Identifier: Apache-2.0
"""One run of the program: reads its cluster, keeps a store of what it says, serves it."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Final

from clustermesh_apiserver.convert.assembly import make_exporters
from clustermesh_apiserver.convert.exporter_set import ExporterSet
from clustermesh_apiserver.identity.allocator import IdentityAllocator
from clustermesh_apiserver.mirror.peers import Mirror
from clustermesh_apiserver.problems import Problems
from clustermesh_apiserver.publish.announcement import cluster_config, kinds_of
from clustermesh_apiserver.publish.own_store import OwnStore, check_store, open_store, watch_store
from clustermesh_apiserver.publish.publisher import Publisher
from clustermesh_apiserver.serve.facade_server import FacadeServer
from clustermesh_apiserver.settings import Settings
from clustermesh_apiserver.source.follow import Source
from clustermesh_apiserver.source.plan import SourcePlan, source_plan
from clustermesh_apiserver.status.status_api import serve_status
from clustermesh_apiserver.tables import Tables
from kube.client import KubeClient, in_thread
from kube.errors import KubeError
from meshapi.peer import RemoteCluster
from meshkit.backoff import Backoff
from meshkit.clock import SystemClock
from meshkit.errors import PermanentError
from meshkit.supervise import supervise, together
from meshmodel.identity import identity_range
from meshmodel.keys import Kind
from meshmodel.names import ClusterName

log = logging.getLogger(__name__)

BACKOFF_S: Final = (0.5, 15.0)
TICK_S: Final = 5.0


class Apiserver:
    """All parts of one run, and what is open right now; the status is read from here."""

    def __init__(self, settings: Settings, client: KubeClient) -> None:
        self.settings, self.client = settings, client
        self.cluster = ClusterName(settings.cluster_name)
        self.clock = SystemClock()
        self.started_s = self.clock.wall()
        self.tables, self.problems = Tables(), Problems(client)
        self.front = FacadeServer(settings)
        self.plan: SourcePlan | None = None
        self.source: Source | None = None
        self.allocator: IdentityAllocator | None = None
        self.store: OwnStore | None = None
        self.publisher: Publisher | None = None
        self.exporters: ExporterSet | None = None
        self.mirror: Mirror | None = None
        self.status_port, self.store_error = 0, ""

    def peers(self) -> list[RemoteCluster]:
        """The peers that are mirrored."""
        return self.mirror.statuses() if self.mirror is not None else []

    async def run(self) -> None:
        """Serves until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(serve_status(self), name="status")
            group.create_task(self.problems.run(), name="events")
            source = await self._make_source()
            group.create_task(source.run(), name="source")
            if self.allocator is not None:
                group.create_task(self.allocator.run(), name="identities")
            group.create_task(self._keep_store(source), name="store")

    async def _make_source(self) -> Source:
        backoff = Backoff(*BACKOFF_S, random.Random())
        while True:
            try:
                plan = await in_thread(source_plan, self.settings, self.client)
                break
            except KubeError as exc:
                if isinstance(exc, PermanentError):
                    raise
                delay_s = backoff.next()
                log.warning("kubernetes not reached, retrying", extra={"error": str(exc), "delay_s": round(delay_s, 2)})
                await self.clock.sleep(delay_s)
        log.info("source chosen", extra={"cluster": self.cluster, "reason": "cilium" if plan.cilium else "pods"})
        self.plan = plan
        self.source = source = Source(self.client, self.tables, plan, self.problems)
        if not plan.cilium:
            self.allocator = source.allocator = self._make_allocator(source)
        return source

    def _make_allocator(self, source: Source) -> IdentityAllocator:
        def identity_appeared(key: str) -> None:
            source.touch(Kind.IDENTITIES, (key,))

        def number_known(owners: set[str]) -> None:
            source.touch(Kind.IPS, owners)
            source.flush()

        return IdentityAllocator(
            self.client,
            self.tables,
            identity_range(self.settings.cluster_id, self.settings.max_connected_clusters),
            on_identity=identity_appeared,
            on_number=number_known,
            grace_s=self.settings.identity_grace,
        )

    async def _keep_store(self, source: Source) -> None:
        def failed(error: BaseException, _delay_s: float) -> None:
            self.store_error = str(error)[:256]

        backoff = Backoff(*BACKOFF_S, random.Random())
        await supervise("store", lambda: self._hold_store(source), backoff=backoff, clock=self.clock, on_failure=failed)

    async def _hold_store(self, source: Source) -> None:
        """One life of the store; ends with the error that ended it."""
        plan = source.plan
        async with open_store(self.settings) as store:
            self.store, self.store_error = store, ""
            self.publisher = publisher = Publisher(
                store.client,
                self.cluster,
                cluster_config(self.settings).encode(),
                kinds_of(self.settings),
                ttl_s=self.settings.lease_ttl,
            )
            store.client.on_store_change.append(publisher.store_changed)
            self.exporters = exporters = make_exporters(
                self.settings, plan, self.tables, publisher.stores, self.allocator, private=publisher.private
            )
            source.attach(exporters)
            self.mirror = self._make_mirror(store)
            jobs = {
                "publish": publisher.run(),
                "store-health": watch_store(store),
                "tick": _tick(exporters, store),
                "front": self._serve(store),
            }
            if self.mirror is not None:
                jobs["mirror"] = self.mirror.run()
            try:
                await together(jobs)
            finally:
                source.attach(None)
                exporters.close()
                self.store = self.publisher = self.exporters = self.mirror = None

    def _make_mirror(self, store: OwnStore) -> Mirror | None:
        chosen = self.settings
        if not chosen.mirror:
            return None
        mirror = Mirror(
            store.client,
            chosen.mirror_config_dir,
            self.cluster,
            local_id=chosen.cluster_id,
            maximum=chosen.max_connected_clusters,
            ttl_s=chosen.lease_ttl,
        )
        store.client.on_store_change.append(mirror.store_changed)
        return mirror

    async def _serve(self, store: OwnStore) -> None:
        backoff = Backoff(*BACKOFF_S, random.Random())
        await supervise("facade", lambda: self.front.run(store), backoff=backoff, clock=self.clock)


async def _tick(exporters: ExporterSet, store: OwnStore) -> None:
    """What waits for time, not for a change, is looked at again."""
    while True:
        await check_store(store)
        await asyncio.sleep(TICK_S)
        exporters.flush()
