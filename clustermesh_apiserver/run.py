# SPDX-License-Identifier: Apache-2.0
"""One run of the program: reads its cluster, keeps a store of what it says, serves it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from clustermesh_apiserver.apiserver import Apiserver, Publication
from clustermesh_apiserver.convert.assembly import make_exporters
from clustermesh_apiserver.convert.confirmations import Confirmations
from clustermesh_apiserver.convert.exporter_set import ExporterSet
from clustermesh_apiserver.identity.allocator import IdentityAllocator
from clustermesh_apiserver.mirror.peers import Mirror
from clustermesh_apiserver.problems import Problems
from clustermesh_apiserver.publish.announcement import cluster_config, kinds_of
from clustermesh_apiserver.publish.own_store import OwnStore, care_for_store, open_store, watch_store
from clustermesh_apiserver.publish.publisher import Publisher
from clustermesh_apiserver.renewal.keeper import CertificateKeeper, CertificateOwner
from clustermesh_apiserver.serve.facade_server import FacadeServer
from clustermesh_apiserver.settings import ApiserverSettings
from clustermesh_apiserver.source.follow import Source
from clustermesh_apiserver.source.plan import SourcePlan, look, make_plan
from clustermesh_apiserver.status.status_api import serve_status
from clustermesh_apiserver.tables import Tables
from kube.client import KubeClient
from kube.review import AccessReviewer
from meshapi.installed import TOKEN_AUDIENCE
from meshkit.backoff import Backoff
from meshkit.clock import Clock, SystemClock
from meshkit.errors import MAXIMUM_TEXT
from meshkit.supervise import supervise, together
from meshkit.task_group import TaskGroup
from meshmodel.identity import identity_range
from meshmodel.keys import Kind
from meshmodel.names import ClusterId, ClusterName
from meshpeer.outside import Outside
from meshpeer.reservations import Own

BACKOFF_S: Final = (0.5, 15.0)
TICK_S: Final = 5.0


def make_apiserver(
    settings: ApiserverSettings, client: KubeClient, clock: Clock | None = None, outside: Outside | None = None
) -> Apiserver:
    """All parts of a run that has not begun."""
    clock, outside = clock or SystemClock(), outside or Outside()
    tables, problems = Tables(), Problems(client, clock)

    def choose(before: SourcePlan | None) -> SourcePlan:
        return make_plan(settings, look(client), before)

    confirmations = Confirmations(tables, now=clock.monotonic)

    def identity_appeared(key: str) -> None:
        source.touch(Kind.IDENTITIES, (key,))

    def number_known(owners: set[str]) -> None:
        source.touch(Kind.IPS, owners)
        source.flush()

    allocator = IdentityAllocator(
        client,
        tables,
        identity_range(settings.cluster_id, settings.max_connected_clusters),
        on_identity=identity_appeared,
        on_number=number_known,
        grace_s=settings.identity_grace,
        clock=clock,
        rng=outside.rng,
    )
    source = Source(
        client,
        tables,
        problems,
        choose,
        default_global=settings.default_global_namespace,
        namespace=settings.namespace,
        confirmations=confirmations,
        allocator=allocator,
        clock=clock,
        rng=outside.rng,
    )
    return Apiserver(
        settings=settings,
        clock=clock,
        outside=outside,
        started_s=clock.wall(),
        tables=tables,
        problems=problems,
        source=source,
        confirmations=confirmations,
        allocator=allocator,
        facade_server=FacadeServer(settings),
        admit=AccessReviewer(client, TOKEN_AUDIENCE, clock).admit,
        keeper=_keeper(settings, client, clock),
    )


async def run(apiserver: Apiserver, serve: Callable[[Apiserver], Coroutine[Any, Any, None]] = serve_status) -> None:
    """Serves until cancelled. `serve` is the REST server."""
    async with TaskGroup() as group:
        group.create_task(serve(apiserver), name="status")
        group.create_task(apiserver.problems.run(), name="events")
        group.create_task(apiserver.source.run(), name="source")
        group.create_task(apiserver.allocator.run(), name="identities")
        group.create_task(_keep_store(apiserver), name="store")
        if apiserver.keeper is not None:
            group.create_task(apiserver.keeper.run(), name="certificates")


def _keeper(settings: ApiserverSettings, client: KubeClient, clock: Clock) -> CertificateKeeper | None:
    if not settings.renew_certificates:
        return None
    owner = CertificateOwner(settings.cluster_name, settings.namespace, settings.certificate_lifetime)
    return CertificateKeeper(client, owner, clock)


async def _keep_store(apiserver: Apiserver) -> None:
    def failed(error: BaseException, _delay_s: float) -> None:
        apiserver.store_error = str(error)[:MAXIMUM_TEXT]

    async def hold() -> None:
        await _hold_store(apiserver)

    backoff = Backoff(*BACKOFF_S, apiserver.outside.rng)
    await supervise("store", hold, backoff=backoff, clock=apiserver.clock, on_failure=failed)


async def _hold_store(apiserver: Apiserver) -> None:
    """One life of the store; ends with the error that ended it."""
    async with open_store(apiserver.settings, apiserver.outside.dial) as store:
        apiserver.publication = publication = _publication(apiserver, store)
        apiserver.store_error = ""
        apiserver.source.attach(publication.exporters)
        jobs = {
            "publish": publication.publisher.run(),
            "store-process": watch_store(store),
            "store-upkeep": care_for_store(store, apiserver.clock),
            "tick": _tick(publication.exporters),
            "facade": _serve(apiserver, store),
        }
        if publication.mirror is not None:
            jobs["mirror"] = publication.mirror.run()
        try:
            await together(jobs)
        finally:
            apiserver.source.attach(None)
            publication.exporters.close()
            apiserver.publication = None


def _publication(apiserver: Apiserver, store: OwnStore) -> Publication:
    settings = apiserver.settings
    publisher = Publisher(
        store.client,
        ClusterName(settings.cluster_name),
        cluster_config(settings).encode(),
        kinds_of(settings),
        is_shared=store.process is None,
        ttl_s=settings.lease_ttl,
        clock=apiserver.clock,
        rng=apiserver.outside.rng,
    )
    store.client.on_store_change.append(publisher.store_changed)
    exporters = make_exporters(
        settings,
        apiserver.tables,
        publisher.stores,
        apiserver.allocator,
        private=publisher.private,
        confirmations=apiserver.confirmations,
        clock=apiserver.clock,
    )
    return Publication(store, publisher, exporters, _mirror(apiserver, store))


async def _serve(apiserver: Apiserver, store: OwnStore) -> None:
    backoff = Backoff(*BACKOFF_S, apiserver.outside.rng)
    await supervise("facade", lambda: apiserver.facade_server.run(store), backoff=backoff, clock=apiserver.clock)


def _mirror(apiserver: Apiserver, store: OwnStore) -> Mirror | None:
    settings = apiserver.settings
    if not settings.mirror:
        return None
    mirror = Mirror(
        store.client,
        settings.mirror_config_dir,
        Own(
            ClusterName(settings.cluster_name),
            ClusterId(settings.cluster_id),
            settings.max_connected_clusters,
            settings.vxlan_port,
        ),
        ttl_s=settings.lease_ttl,
        quota_bytes=settings.etcd_quota_mib << 20,
        clock=apiserver.clock,
        outside=apiserver.outside,
    )
    store.client.on_store_change.append(mirror.store_changed)
    return mirror


async def _tick(exporters: ExporterSet) -> None:
    """What waits for time, not for a change, is looked at again."""
    while True:
        await asyncio.sleep(TICK_S)
        exporters.flush()
