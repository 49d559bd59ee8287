# SPDX-License-Identifier: Apache-2.0
"""The same bytes through etcd with our client alone: no queues, no decoding, nothing remembered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from kvstore.etcd import EtcdStore
from kvstore.lease import KEYS_PER_LEASE
from kvstore.store import MAX_TXN_OPS, Phase, prefix_end
from meshmodel import keys
from meshmodel.keys import Kind
from tests.bench.wire.child import Talk
from tests.bench.wire.meter import Meter, quantiles
from tests.bench.wire.records import CLUSTER, KINDS, Pair, Shape, canaries, config, pairs
from tests.bench.wire.store import connect

TTL_S = 900
SCRATCH = b"cilium/state/bench/"


async def fill(talk: Talk, connection: str, etcd: int, shape: dict[str, int]) -> dict[str, Any]:
    """Everything of the shape is in the store, on leases as production has them."""
    wanted = Shape(**shape)
    listed = [list(pairs(kind, wanted)) for kind in KINDS]
    store = connect(connection)
    await store.get(keys.HEARTBEAT)
    meter = Meter(etcd=etcd)
    await asyncio.gather(*(_put(store, chunk) for chunk in listed))
    figures = meter.read(wanted.total)
    stamp = b"2026-01-01T00:00:00Z"
    await store.apply({keys.cluster_config_key(CLUSTER): config(), keys.HEARTBEAT: stamp})
    await store.apply(dict.fromkeys(canaries(), stamp))
    await store.close()
    size = sum(len(key) + len(value) for chunk in listed for key, value in chunk)
    return {**figures, "bytes": size}


async def read(talk: Talk, connection: str, etcd: int) -> dict[str, Any]:
    """Every key of the cluster's state is listed once and forgotten."""
    store = connect(connection)
    await store.get(keys.HEARTBEAT)
    meter = Meter(etcd=etcd)
    counts = await asyncio.gather(*(_list(store, keys.prefix_of(kind, CLUSTER)) for kind in KINDS))
    figures = meter.read(sum(counts))
    await store.close()
    return figures


async def copy(talk: Talk, source: str, target: str, source_etcd: int, target_etcd: int) -> dict[str, Any]:
    """Every key of the cluster's state is read from one store and written to another."""
    reader, writer = connect(source), connect(target)
    await asyncio.gather(reader.get(keys.HEARTBEAT), writer.get(keys.HEARTBEAT))
    meter = Meter(source_etcd=source_etcd, target_etcd=target_etcd)
    counts = await asyncio.gather(*(_copy(reader, writer, kind) for kind in KINDS))
    figures = meter.read(sum(counts))
    await asyncio.gather(reader.close(), writer.close())
    return figures


async def hop(talk: Talk, connection: str, samples: int, interval_s: float) -> dict[str, Any]:
    """A key is put and seen by a watch, one at a time."""
    store = connect(connection)
    seen: asyncio.Queue[float] = asyncio.Queue()
    watching = asyncio.create_task(_watch(store, SCRATCH, seen))
    await seen.get()
    found = []
    for number in range(samples):
        sent = time.monotonic()
        await store.put(SCRATCH + b"key", str(number).encode() * 50)
        found.append((await seen.get() - sent) * 1000)
        await asyncio.sleep(interval_s)
    watching.cancel()
    await store.close()
    return quantiles(found)


async def carry(talk: Talk, source: str, target: str) -> dict[str, Any]:
    """The barest mirror: every change a watch of one store shows is put into another, until the parent has enough."""
    reader, writer = connect(source), connect(target)
    carrying = asyncio.create_task(_carry(reader, writer, talk))
    await asyncio.wait([carrying, asyncio.create_task(talk.hear())], return_when=asyncio.FIRST_COMPLETED)
    carrying.cancel()
    await asyncio.wait([carrying])
    await asyncio.gather(reader.close(), writer.close())
    return {}


async def relay(talk: Talk, source: str, target: str, samples: int, interval_s: float) -> dict[str, Any]:
    """A key is put in one store and, carried by somebody else, seen in another by a watch."""
    writer, reader = connect(source), connect(target)
    seen: asyncio.Queue[float] = asyncio.Queue()
    watching = asyncio.create_task(_watch(reader, SCRATCH, seen))
    await seen.get()
    found = []
    for number in range(samples):
        sent = time.monotonic()
        putting = asyncio.create_task(writer.put(SCRATCH + b"key", str(number).encode() * 50))
        found.append((await seen.get() - sent) * 1000)
        await putting
        await asyncio.sleep(interval_s)
    watching.cancel()
    await asyncio.wait([watching])
    await asyncio.gather(writer.close(), reader.close())
    return quantiles(found)


async def burst(talk: Talk, connection: str, etcd: int, count: int, watcher: str) -> dict[str, Any]:
    """So many keys are put and seen by a watch of `watcher`, as fast as both go."""
    store, reader = connect(connection), connect(watcher)
    changed = list(pairs(Kind.IPS, Shape(ips=count, identities=7)))
    prefix = keys.ips_prefix(CLUSTER)
    events = reader.watch(prefix, prefix_end(prefix), 0)
    await anext(events)
    meter = Meter(etcd=etcd)
    writing = asyncio.create_task(_put(store, changed))
    seen = 0
    async for message in events:
        seen += len(message.events)
        if seen >= count:
            break
    await writing
    figures = meter.read(count)
    await events.aclose()
    await asyncio.gather(store.close(), reader.close())
    return figures


async def _put(store: EtcdStore, records: Sequence[Pair]) -> None:
    for first in range(0, len(records), KEYS_PER_LEASE):
        lease = await store.grant(TTL_S)
        held = records[first : first + KEYS_PER_LEASE]
        for start in range(0, len(held), MAX_TXN_OPS):
            await store.apply(dict(held[start : start + MAX_TXN_OPS]), lease=lease)


async def _list(store: EtcdStore, prefix: bytes) -> int:
    return sum([len(page.entries) async for page in store.list(prefix)])


async def _copy(reader: EtcdStore, writer: EtcdStore, kind: Kind) -> int:
    source, target = keys.prefix_of(kind, CLUSTER), keys.prefix_of(kind, CLUSTER, cached=True)
    count = 0
    async for page in reader.list(source):
        await _put(writer, [(target + entry.key.removeprefix(source), entry.value) for entry in page.entries])
        count += len(page.entries)
    return count


async def _watch(store: EtcdStore, prefix: bytes, seen: asyncio.Queue[float]) -> None:
    """The time of each change; one time when the watch stands."""
    is_listed = False
    async for batch in store.list_and_watch(prefix):
        if is_listed:
            for _ in batch.events or ("standing",):
                seen.put_nowait(time.monotonic())
        is_listed = is_listed or batch.phase is Phase.LISTED


async def _carry(reader: EtcdStore, writer: EtcdStore, talk: Talk) -> None:
    async for message in reader.watch(SCRATCH, prefix_end(SCRATCH), 0):
        if message.created:
            talk.say(standing=True)
        for event in message.events:
            await writer.put(event.key, event.value)
