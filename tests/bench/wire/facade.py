# SPDX-License-Identifier: Apache-2.0
"""The facade in a process of its own, and clients that compare it with etcd itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from certs.bundle import TrustBundle
from clustermesh_apiserver.serve.access import Access
from clustermesh_apiserver.serve.users import User
from kvstore.etcd import EtcdStore
from kvstore.facade.server import ReadOnlyFacade, ServerTls
from kvstore.store import MAX_TXN_OPS, prefix_end
from meshmodel import keys
from tests.bench.wire.child import Talk
from tests.bench.wire.meter import Meter, quantiles
from tests.bench.wire.records import CLUSTER, ip_record, pod_ip
from tests.bench.wire.store import PEER, connect

SAMPLES, INTERVAL_S = 300, 0.01
EVENTS = 100_000
SCRATCH = b"cilium/state/bench/v1/"


async def serve(talk: Talk, connection: str, certificates: dict[str, str]) -> dict[str, Any]:
    """Serves our etcd to the peer and to our agents until the parent has enough."""
    pem = {name: await asyncio.to_thread(Path(path).read_bytes) for name, path in certificates.items()}
    trust = TrustBundle({CLUSTER: pem["own_ca"], PEER: pem["peer_ca"]})
    access = Access(CLUSTER, trust, [User(f"remote-{PEER}", "remote")])
    store = connect(connection)
    facade = ReadOnlyFacade(store, access.grant, ServerTls(trust.union_pem, pem["cert"], pem["key"]))
    talk.say(port=await facade.start("127.0.0.1", 0))
    await talk.hear()
    await facade.stop()
    await store.close()
    return {}


async def compare(talk: Talk, writer: str, direct: str, facade: str) -> dict[str, Any]:
    """Round trips of a read and of a change, in turns: first without, then with the facade."""
    admin = connect(writer)
    clients = {"direct": connect(direct), "facade": connect(facade)}
    reads: dict[str, list[float]] = {name: [] for name in clients}
    changes: dict[str, list[float]] = {name: [] for name in clients}
    prefix = SCRATCH + b"single/"
    watches = {name: client.watch(prefix, prefix_end(prefix), 0) for name, client in clients.items()}
    for watch in watches.values():
        await anext(watch)
    for number in range(SAMPLES):
        for name, client in clients.items():
            started = time.monotonic()
            await client.get(keys.cluster_config_key(CLUSTER))
            reads[name].append((time.monotonic() - started) * 1000)
        started = time.monotonic()
        putting = asyncio.create_task(admin.put(prefix + b"key", ip_record(number, 1000)))
        both = [_next(watches[name], started) for name in clients]
        for name, found in zip(clients, await asyncio.gather(*both), strict=True):
            changes[name].append(found)
        await putting
        await asyncio.sleep(INTERVAL_S)
    for watch in watches.values():
        await watch.aclose()
    await asyncio.gather(admin.close(), *(client.close() for client in clients.values()))
    return {"read": _compared(reads), "put_to_watch": _compared(changes)}


async def events(talk: Talk, writer: str, readers: Sequence[str], turn: str, **others: int) -> dict[str, Any]:
    """So many changes in full transactions, all watched by every reader; each turn has keys of its own."""
    prefix = SCRATCH + turn.encode() + b"/"
    admin, clients = connect(writer), [connect(path) for path in readers]
    changed = [(prefix + pod_ip(index).encode(), ip_record(index, 1000)) for index in range(EVENTS)]
    standing = [asyncio.Event() for _ in clients]
    watching = [
        asyncio.create_task(_count(client, prefix, ready)) for client, ready in zip(clients, standing, strict=True)
    ]
    await asyncio.gather(*(ready.wait() for ready in standing))
    meter = Meter(**others)
    for start in range(0, EVENTS, MAX_TXN_OPS):
        await admin.apply(dict(changed[start : start + MAX_TXN_OPS]))
    await asyncio.gather(*watching)
    figures = meter.read(EVENTS)
    await asyncio.gather(admin.close(), *(client.close() for client in clients))
    return {**figures, "readers": len(clients)}


async def _next(watch: Any, started: float) -> float:
    while not (await anext(watch)).events:
        pass
    return (time.monotonic() - started) * 1000


async def _count(client: EtcdStore, prefix: bytes, ready: asyncio.Event) -> None:
    seen = 0
    async with aclosing(client.watch(prefix, prefix_end(prefix), 0)) as messages:
        async for message in messages:
            ready.set()
            seen += len(message.events)
            if seen >= EVENTS:
                return


def _compared(samples: dict[str, list[float]]) -> dict[str, Any]:
    found: dict[str, Any] = {name: quantiles(values) for name, values in samples.items()}
    found["overhead_p50_ms"] = round(found["facade"]["p50_ms"] - found["direct"]["p50_ms"], 2)
    return found
