# SPDX-License-Identifier: Apache-2.0
"""The publisher: its tables are full already, or are filled from Kubernetes' lists; then etcd has every key and canary."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from clustermesh_apiserver.convert.assembly import make_exporters
from clustermesh_apiserver.problems import Problems
from clustermesh_apiserver.publish.announcement import cluster_config, kinds_of
from clustermesh_apiserver.publish.publisher import Publisher
from clustermesh_apiserver.settings import ApiserverSettings, SourceChoice
from clustermesh_apiserver.source.follow import Source
from clustermesh_apiserver.source.intake import Intake
from clustermesh_apiserver.source.plan import SourcePlan
from clustermesh_apiserver.tables import Tables
from kube.reflector import Change, Synced, Upsert
from kube.resource import object_key
from kvstore.etcd import EtcdStore
from kvstore.store import Phase
from meshkit.clock import ManualClock
from meshmodel import keys
from meshmodel.cluster_config import ExportMode
from meshmodel.identity import NumericIdentity
from meshmodel.keys import Kind
from meshmodel.labels import Labels
from meshmodel.names import ClusterName
from tests.bench.wire import cluster_rows
from tests.bench.wire.child import Talk
from tests.bench.wire.meter import Meter, quantiles, until
from tests.bench.wire.records import CLUSTER, CLUSTER_ID, Shape, pod_ip
from tests.bench.wire.store import connect
from tests.support import record_keys

BURST = 20_000
SAMPLES, INTERVAL_S = 200, 0.02
PLAN = SourcePlan(cilium=True)


class NoIdentities:
    """Cilium makes the identities."""

    def use(self, _owner: str, _labels: Labels) -> NumericIdentity | None:
        return None

    def release(self, _owner: str) -> None: ...


@dataclass
class Running:
    """The publishing half of the apiserver program."""

    store: EtcdStore
    source: Source
    publisher: Publisher

    @property
    def writes(self) -> int:
        """How many records were written so far."""
        return sum(store.writes for store in self.publisher.stores.values())

    async def synced(self) -> None:
        """Every canary is written."""
        await asyncio.gather(*(store.synced.wait() for store in self.publisher.stores.values()))


@asynccontextmanager
async def publishing(connection: str, tables: Tables) -> AsyncIterator[Running]:
    """Wired as the program wires it; it runs, and what the tables hold already is looked at."""
    settings = ApiserverSettings(
        cluster_name=CLUSTER,
        cluster_id=CLUSTER_ID,
        source=SourceChoice.CILIUM,
        service_export_mode=ExportMode.SERVICES,  # what the figures of Cilium's exporter were taken with
    )
    store = connect(connection)
    publisher = Publisher(store, ClusterName(CLUSTER), cluster_config(settings).encode(), kinds_of(settings))
    source = Source(None, tables, Problems(None, ManualClock()), lambda _: PLAN)  # type: ignore[arg-type]  # nothing is asked of Kubernetes
    source.set_plan(PLAN)
    exporters = make_exporters(settings, tables, publisher.stores, NoIdentities())
    task = asyncio.create_task(publisher.run())
    source.attach(exporters)
    try:
        yield Running(store, source, publisher)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.close()


async def from_tables(talk: Talk, connection: str, etcd: int, shape: dict[str, int]) -> dict[str, Any]:
    """Rows in memory to canaries in etcd; then a burst of changes and single ones."""
    wanted, tables = Shape(**shape), Tables()
    cluster_rows.fill_tables(tables, wanted)
    meter = Meter(etcd=etcd)
    async with publishing(connection, tables) as running:
        await running.synced()
        first = meter.read(wanted.total)
        burst = await _burst(running, wanted, etcd)
        return {"first": first, "burst": burst, "steady": await _steady(running, wanted)}


async def only_first(talk: Talk, connection: str, etcd: int, shape: dict[str, int]) -> dict[str, Any]:
    """Rows in memory to canaries in etcd."""
    wanted, tables = Shape(**shape), Tables()
    cluster_rows.fill_tables(tables, wanted)
    meter = Meter(etcd=etcd)
    async with publishing(connection, tables) as running:
        await running.synced()
        return dict(meter.read(wanted.total))


async def from_lists(talk: Talk, connection: str, etcd: int, shape: dict[str, int]) -> dict[str, Any]:
    """Kubernetes' answers as bytes in memory to canaries in etcd: decoded, stripped, converted, published."""
    wanted, tables = Shape(**shape), Tables()
    lists = {name: orjson.dumps({"items": found}) for name, found in cluster_rows.objects(wanted).items()}
    start_cpu_s = time.process_time()
    meter = Meter(etcd=etcd)
    async with publishing(connection, tables) as running:
        for intake in running.source.intakes:
            _take(intake, lists[intake.resource.plural])
            await asyncio.sleep(0)
        await running.synced()
        figures = meter.read(wanted.total)
    return {**figures, "cpu_s_before": round(start_cpu_s, 2)}


def _take(intake: Intake[Any], page: bytes) -> None:
    changes: list[Change[Any]] = [Upsert(object_key(item), intake.strip(item)) for item in orjson.loads(page)["items"]]
    intake.take([*changes, Synced()])


async def _burst(running: Running, shape: Shape, etcd: int) -> dict[str, Any]:
    """Half services, half addresses change at once; over when all are in etcd."""
    tables, source = running.source.tables, running.source
    count = min(BURST // 2, shape.services, shape.ips)
    slices = {f"{row.namespace}/{row.name}": row for row in (cluster_rows.slice_row(i, 1) for i in range(count))}
    endpoints = [cluster_rows.endpoint_row(index, shape.identities, 1) for index in range(count)]
    meter, before = Meter(etcd=etcd), running.writes
    for key, row in slices.items():
        tables.slices.put(key, row)
        source.touch(Kind.SERVICES, (f"{row.namespace}/{row.service}",))
    for (endpoint,) in endpoints:
        key = f"{endpoint.namespace}/{endpoint.name}"
        tables.endpoints.put(key, (endpoint,))
        source.touch(Kind.IPS, (key,))
    source.flush()
    await until(lambda: running.writes - before >= 2 * count)
    return meter.read(2 * count)


async def _steady(running: Running, shape: Shape) -> dict[str, Any]:
    """A row changes; how long until a watch of etcd has the record. One at a time."""
    tables, source = running.source.tables, running.source

    def change(number: int) -> bytes:
        row = cluster_rows.endpoint_row(number, shape.identities, 7 + number)
        key = f"{row[0].namespace}/{row[0].name}"
        tables.endpoints.put(key, row)
        source.touch(Kind.IPS, (key,))
        source.flush()
        return record_keys.ip_key(CLUSTER, pod_ip(number))

    return await times(running.store, keys.ips_prefix(CLUSTER), change)


async def times(store: EtcdStore, prefix: bytes, change: Callable[[int], bytes]) -> dict[str, Any]:
    """Milliseconds from each change to its key in a watch of the store."""
    seen: asyncio.Queue[tuple[bytes, float]] = asyncio.Queue()
    standing = asyncio.Event()

    async def watch() -> None:
        async for batch in store.list_and_watch(prefix):
            if batch.phase is Phase.LISTED:
                standing.set()
            elif standing.is_set():
                for event in batch.events:
                    seen.put_nowait((event.key, time.monotonic()))

    watching = asyncio.create_task(watch())
    await standing.wait()
    await asyncio.sleep(0.3)
    found = []
    for number in range(SAMPLES):
        started = time.monotonic()
        key = change(number)
        async with asyncio.timeout(10):
            while (event := await seen.get())[0] != key:
                pass
        found.append((event[1] - started) * 1000)
        await asyncio.sleep(INTERVAL_S)
    watching.cancel()
    return quantiles(found)
