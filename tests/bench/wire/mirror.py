# SPDX-License-Identifier: Apache-2.0
"""The mirror in a process of its own, and what drives it: a first copy, a burst, single changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from clustermesh_apiserver.mirror.peers import Mirror
from kvstore.etcd import EtcdStore
from kvstore.store import MAX_TXN_OPS, Phase, prefix_end
from kvstore.watch import Message
from meshmodel import keys
from meshmodel.names import ClusterId, ClusterName
from meshpeer.reservations import Own
from tests.bench.wire.child import Talk
from tests.bench.wire.meter import Meter, quantiles
from tests.bench.wire.records import CLUSTER, KINDS, Shape, ip_record, pod_ip
from tests.bench.wire.store import PEER, connect
from tests.support import record_keys

SAMPLES, INTERVAL_S = 200, 0.05
BURST = 20_000


async def serve(talk: Talk, connection: str, directory: str) -> dict[str, Any]:
    """Mirrors the peers in the directory into our store until the parent has enough."""
    store = connect(connection)
    await store.get(keys.HEARTBEAT)
    talk.say(ready=True)
    await talk.hear()
    mirror = Mirror(store, Path(directory), Own(ClusterName(PEER), ClusterId(1)))
    task = asyncio.create_task(mirror.run())
    await asyncio.wait([task, asyncio.create_task(talk.hear())], return_when=asyncio.FIRST_COMPLETED)
    task.cancel()
    await asyncio.wait([task])
    await store.close()
    return {}


async def drive(
    talk: Talk, source: str, target: str, mirror: int, source_etcd: int, target_etcd: int, shape: dict[str, int]
) -> dict[str, Any]:
    """Says what each phase cost the mirror and both stores; the parent starts the mirror at our first word."""
    wanted = Shape(**shape)
    writer, reader = connect(source), connect(target)
    await asyncio.gather(writer.get(keys.HEARTBEAT), reader.get(keys.HEARTBEAT))
    meter = Meter(mirror=mirror, source_etcd=source_etcd, target_etcd=target_etcd)
    talk.say(ready=True)
    await _canaries(reader)
    found: dict[str, Any] = {"first": meter.read(wanted.total)}
    changed = [(record_keys.ip_key(CLUSTER, pod_ip(i)), ip_record(i, wanted.identities, 1)) for i in range(BURST)]
    prefix = keys.ips_prefix(CLUSTER, cached=True)
    async with aclosing(_changes(reader, prefix)) as messages:
        await anext(messages)
        meter = Meter(mirror=mirror, source_etcd=source_etcd, target_etcd=target_etcd)
        started = time.monotonic()
        writing = asyncio.create_task(_put_all(writer, changed))
        seen = 0
        async for message in messages:
            seen += len(message.events)
            if seen >= BURST:
                break
        found["burst"] = {**meter.read(BURST), "put_s": round(await writing - started, 2)}
        meter = Meter(mirror=mirror, source_etcd=source_etcd, target_etcd=target_etcd)
        hops = await _hops(writer, messages, range(SAMPLES), INTERVAL_S)
        found["steady"] = {**quantiles(hops), **meter.read(SAMPLES)}
        hops = await _hops(writer, messages, range(SAMPLES, 3 * SAMPLES), 0.0)
        found["one_after_another"] = quantiles(hops)
    await asyncio.gather(writer.close(), reader.close())
    return found


async def _canaries(reader: EtcdStore) -> None:
    missing = {keys.canary_key(CLUSTER, kind, cached=True) for kind in KINDS}
    async with aclosing(reader.list_and_watch(keys.synced_prefix(CLUSTER))) as batches:
        async for batch in batches:
            missing -= {event.key for event in batch.events}
            if not missing and batch.phase is not Phase.LISTING:
                return


def _changes(reader: EtcdStore, prefix: bytes) -> AsyncGenerator[Message, None]:
    return reader.watch(prefix, prefix_end(prefix), 0)


async def _put_all(writer: EtcdStore, changed: list[tuple[bytes, bytes]]) -> float:
    for start in range(0, len(changed), MAX_TXN_OPS):
        await writer.apply(dict(changed[start : start + MAX_TXN_OPS]))
    return time.monotonic()


async def _hops(
    writer: EtcdStore, messages: AsyncGenerator[Message, None], numbers: range, interval_s: float
) -> list[float]:
    """Milliseconds from sending each put to the cached key."""
    found = []
    for number in numbers:
        key, value = record_keys.ip_key(CLUSTER, pod_ip(number)), ip_record(number, 60_000, 1_000 + number)
        started = time.monotonic()
        putting = asyncio.create_task(writer.put(key, value))
        async with asyncio.timeout(10):
            while not (await anext(messages)).events:
                pass
        found.append((time.monotonic() - started) * 1000)
        await putting
        await asyncio.sleep(interval_s)
    return found
