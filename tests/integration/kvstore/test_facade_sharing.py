# SPDX-License-Identifier: Apache-2.0
"""One upstream watch serves all clients of a range, from any revision the history still has, and beyond."""

from __future__ import annotations

import asyncio
import random
import urllib.request
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from certs.diagnose import client_context
from certs.store import CertFiles
from kvstore.facade.grant import ClientLimits
from kvstore.proto import rpc_pb2 as pb
from tests.contract.kvstore.stores_under_test import Recorder, TextCodec, reading
from tests.integration.kvstore.facade_under_test import Facade, Plain, facade_for
from tests.integration.kvstore.private_etcd import Pki, eventually, needs_etcd, running_etcd
from tests.support.watchstore import WatchStore

pytestmark = needs_etcd

ROOT = b"cilium/state/shared/"
END = b"cilium/state/shared0"
SMALL_HISTORY = ClientLimits(history_bytes=20_000, linger_s=0.0)


@pytest_asyncio.fixture(scope="module")
async def forgetful(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Facade]:
    """A facade that remembers little."""
    pki = Pki()
    async with (
        running_etcd(tmp_path_factory.mktemp("etcd"), pki) as etcd,
        facade_for(pki, etcd, SMALL_HISTORY) as running,
    ):
        yield running


async def etcd_watchers(facade: Facade) -> int:
    """How many watches etcd itself counts."""
    made = facade.etcd.admin_tls()
    context = client_context(CertFiles(made.ca, made.cert, made.key))
    context.set_alpn_protocols(["http/1.1"])

    def fetch() -> str:
        with urllib.request.urlopen(f"https://{facade.etcd.target}/metrics", context=context, timeout=5) as answer:
            return str(answer.read().decode())

    text = await asyncio.to_thread(fetch)
    line = next(line for line in text.splitlines() if line.startswith("etcd_debugging_mvcc_watcher_total "))
    return int(float(line.split()[1]))


async def test_two_hundred_watchers_cost_one_upstream_watch(facade: Facade) -> None:
    before = await etcd_watchers(facade)
    revision = await facade.admin.put(ROOT + b"a", b"0")
    clients = [Plain(facade.port, facade.south()) for _ in range(8)]
    watches = [client.watch() for client in clients for _ in range(25)]
    for watch in watches:
        await watch.create(ROOT, END, start_revision=revision + 1)
        assert (await watch.read()).created
    assert await etcd_watchers(facade) == before + 1
    last = await facade.admin.put(ROOT + b"a", b"1")
    for watch in watches:
        assert await watch.events(1) == [(ROOT + b"a", last)]
    assert sum(info.watches for info in facade.facade.connections()) == 200
    for client in clients:
        await client.close()
    await eventually(lambda: not facade.facade.connections(), "closed connections are forgotten")


async def test_a_watch_resumes_from_any_revision_without_loss_or_repetition(facade: Facade) -> None:
    revisions = [await facade.admin.put(ROOT + b"%d" % number, b"x") for number in range(30)]
    client = Plain(facade.port, facade.south())
    for start in (revisions[0], revisions[7], revisions[29]):
        watch = client.watch()
        await watch.create(ROOT, END, start_revision=start)
        wanted = [revision for revision in revisions if revision >= start]
        assert [revision for _, revision in await watch.events(len(wanted))] == wanted
        watch.call.cancel()
    await client.close()


async def test_a_watch_from_the_future_waits_for_it(facade: Facade) -> None:
    now = (await facade.admin.status()).revision
    client = Plain(facade.port, facade.south())
    watch = client.watch()
    await watch.create(ROOT, END, start_revision=now + 3)
    assert (await watch.read()).header.revision == now, "so that a client can tell a store that went back in time"
    for number in range(4):
        await facade.admin.put(ROOT + b"%d" % number, b"future")
    assert [revision for _, revision in await watch.events(2)] == [now + 3, now + 4]
    await client.close()


async def test_a_start_inside_a_batch_gives_only_the_later_part(facade: Facade) -> None:
    client = Plain(facade.port, facade.south())
    first = client.watch()
    await first.create(ROOT, END)
    assert (await first.read()).created
    # three revisions which a client that lags gets as one message
    revisions = [await facade.admin.put(ROOT + b"batch", b"%d" % number) for number in range(3)]
    assert [revision for _, revision in await first.events(3)] == revisions
    second = client.watch()
    await second.create(ROOT, END, start_revision=revisions[1])
    assert [revision for _, revision in await second.events(2)] == revisions[1:]
    await client.close()


async def test_history_that_is_forgotten_here_still_comes_from_etcd(forgetful: Facade) -> None:
    client = Plain(forgetful.port, forgetful.south())
    keeper = client.watch()
    await keeper.create(ROOT, END)
    assert (await keeper.read()).created
    revisions = [await forgetful.admin.put(ROOT + b"%d" % number, b"x" * 500) for number in range(200)]
    assert len(await keeper.events(200)) == 200
    watch = client.watch()
    await watch.create(ROOT, END, start_revision=revisions[0])
    assert [revision for _, revision in await watch.events(200)] == revisions
    # caught up: from here on it shares the upstream watch
    last = await forgetful.admin.put(ROOT + b"last", b"x")
    assert await watch.events(1) == [(ROOT + b"last", last)]
    before = await etcd_watchers(forgetful)
    assert before == 1
    again = await forgetful.admin.put(ROOT + b"again", b"x")
    assert await watch.events(1) == [(ROOT + b"again", again)]
    await client.close()


async def test_a_slow_client_misses_nothing_and_costs_no_memory(forgetful: Facade) -> None:
    client = Plain(forgetful.port, forgetful.south())
    watch = client.watch()
    await watch.create(ROOT, END)
    assert (await watch.read()).created
    # far more than the history and than flow control holds, while the client reads nothing
    last = 0
    for start in range(0, 4000, 100):
        ops = {ROOT + b"%04d" % number: b"x" * 1000 for number in range(start, start + 100)}
        last = await forgetful.admin.apply(ops)
    found = await watch.events(4000)
    assert sorted(key for key, _ in found) == [ROOT + b"%04d" % number for number in range(4000)]
    assert [revision for _, revision in found] == sorted(revision for _, revision in found)
    assert found[-1][1] == last
    await client.close()


async def test_readers_that_come_and_go_end_with_the_same_state(facade: Facade) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    root = b"cilium/state/churn/"
    model: dict[bytes, str] = {}

    async def write() -> None:
        for number in range(300):
            key, value = b"%d" % rng.randrange(40), None if rng.random() < 0.3 else b"%d" % number
            await facade.admin.apply({root + key: value})
            if value is None:
                model.pop(key, None)
            else:
                model[key] = value.decode()

    async def read() -> WatchStore[str]:
        store: WatchStore[str] = WatchStore(TextCodec(), Recorder())
        for _ in range(6):
            client = facade.client()
            task = asyncio.create_task(store.run(client, root))
            await eventually(store.synced.is_set)
            await asyncio.wait([task], timeout=rng.random() * 0.05)
            task.cancel()
            await asyncio.wait([task])
            await client.close()
        task = asyncio.create_task(store.run(facade.client(), root))
        await eventually(store.synced.is_set)
        return store

    _, *stores = await asyncio.gather(write(), *(read() for _ in range(4)))
    for store in stores:
        await eventually(lambda store=store: dict(store.entries) == model)


async def test_our_reader_follows_through_the_facade_with_a_canary(facade: Facade) -> None:
    root, canary = b"cilium/state/services/v1/north/", b"cilium/synced/north/cilium/state/services/v1"
    await facade.admin.put(root + b"default/a", b"1")
    async with reading(facade.client(), root, canary=canary, wait=False) as reader:
        await facade.admin.put(canary, b"now")
        await eventually(reader.store.synced.is_set)
        await facade.admin.put(root + b"default/b", b"2")
        await eventually(lambda: reader.values == {b"default/a": "1", b"default/b": "2"})


async def test_many_keys_pass_in_large_pages(facade: Facade) -> None:
    root = b"cilium/state/many/"
    for start in range(0, 12_000, 120):
        await facade.admin.apply({root + b"%05d" % number: b"v" * 100 for number in range(start, start + 120)})
    pages = [page async for page in facade.client().list(root)]
    assert [len(page.entries) for page in pages] == [10_000, 2_000]
    unpaged = await Plain(facade.port, facade.south()).range(pb.RangeRequest(key=root, range_end=b"cilium/state/many0"))
    assert len(unpaged.kvs) == 12_000
    assert not unpaged.more
