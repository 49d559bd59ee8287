# SPDX-License-Identifier: Apache-2.0
"""Runs inside the publishing cluster's apiserver pod, the only place etcd can be reached from.

First puts and watches keys of its own: the raw cost of the store. Then puts service records, each with one new backend address,
and says on standard output when each put was sent. Times are CLOCK_MONOTONIC, which every process of a machine shares.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from kvstore.etcd import EtcdStore
from kvstore.options import Tls
from kvstore.store import Phase
from meshmodel.names import ClusterId, ClusterName, ServiceName
from meshmodel.service import ClusterService, RecordPort
from tests.support import record_keys

DATA = Path("/var/lib/clustermesh/data")
SCRATCH = b"bench/"


async def measure_raw(store: EtcdStore, count: int, interval_s: float) -> list[float]:
    """Milliseconds from sending a put to its watch event, `count` times."""
    seen: asyncio.Queue[float] = asyncio.Queue()

    async def watch() -> None:
        async for batch in store.list_and_watch(SCRATCH):
            if batch.phase is Phase.CHANGES:
                for _ in batch.events:
                    seen.put_nowait(time.monotonic())

    watcher = asyncio.create_task(watch())
    await asyncio.sleep(0.5)
    found = []
    for number in range(count):
        sent = time.monotonic()
        await store.put(SCRATCH + b"key", str(number).encode())
        found.append((await seen.get() - sent) * 1000)
        await asyncio.sleep(interval_s)
    watcher.cancel()
    return found


async def put_records(store: EtcdStore, cluster: str, number: int, addresses: list[str], interval_s: float) -> None:
    """One record per address, at most one each `interval_s`; a line of JSON for each."""
    name = ServiceName("default", "bench-direct")
    for address in addresses:
        record = ClusterService(
            cluster=ClusterName(cluster),
            cluster_id=ClusterId(number),
            name=name,
            frontends={"172.20.1.250": {"http": RecordPort("TCP", 80)}},
            backends={address: {"http": RecordPort("TCP", 8080)}},
        )
        sent = time.monotonic()
        await store.put(record_keys.service_key(cluster, name), record.encode())
        print(json.dumps({"address": address, "sent": sent}), flush=True)
        await asyncio.sleep(max(0.0, sent + interval_s - time.monotonic()))


async def main(port: str, cluster: str, number: str, addresses: list[str]) -> None:
    tls = Tls(
        ca=(DATA / "ca.crt").read_bytes(), cert=(DATA / "admin.crt").read_bytes(), key=(DATA / "admin.key").read_bytes()
    )
    store = EtcdStore([f"127.0.0.1:{port}"], tls)
    half = len(addresses) // 2
    print(json.dumps({"raw": await measure_raw(store, half, 0.02)}), flush=True)
    await put_records(store, cluster, int(number), addresses[:half], 0.03)
    print(json.dumps({"pace": "burst"}), flush=True)
    await put_records(store, cluster, int(number), addresses[half:], 1 / 300)
    await store.delete_prefix(SCRATCH)
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4].split(",")))
