# SPDX-License-Identifier: Apache-2.0
"""When leases are refreshed and when they are given up, on a clock the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kvstore.lease import KEY_TTL_S, PROBE_S, EarlyLoss, LeaseSession
from kvstore.memory import MemoryStore
from kvstore.memoryserver import MemoryServer
from kvstore.sharedstore import SharedStore
from meshkit.clock import ManualClock


async def settle() -> None:
    """Let every task run until all of them wait for the clock."""
    for _ in range(50):
        await asyncio.sleep(0)


@asynccontextmanager
async def running(session: LeaseSession, *others: SharedStore) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(session.run()), *(asyncio.create_task(other.run()) for other in others)]
    await settle()
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_the_published_ttl_is_fifteen_minutes() -> None:
    store = MemoryServer(ManualClock())
    session = LeaseSession(MemoryStore(store), clock=store.clock)
    await session.bind([b"a"])
    assert [lease.ttl_s for lease in store.leases.values()] == [KEY_TTL_S] == [900.0]


async def test_leases_outlive_their_ttl_while_they_are_kept_alive() -> None:
    clock = ManualClock()
    store = MemoryServer(clock)
    session = LeaseSession(MemoryStore(store), keys_per_lease=1, clock=clock)
    await session.bind([b"a", b"b", b"c"])
    async with running(session):
        for _ in range(int(3 * KEY_TTL_S / PROBE_S)):
            clock.advance(PROBE_S)
            await settle()
        store.expire()
        assert len(store.leases) == 3
        assert session.losses == 0


async def test_a_store_that_forgot_us_is_noticed_at_the_next_probe() -> None:
    clock = ManualClock()
    store = MemoryServer(clock)
    client = MemoryStore(store)
    session = LeaseSession(client, clock=clock)
    shared = SharedStore(client, session, b"p/", b"canary", clock=clock)
    async with running(session, shared):
        shared.upsert(b"a", b"1")
        shared.mark_synced()
        await settle()
        assert set(store.entries) == {b"p/a", b"canary"}
        store.wipe(keep_id=True)
        clock.advance(PROBE_S)
        await settle()
        assert set(store.entries) == {b"p/a", b"canary"}
        assert store.entries[b"canary"].revision > store.entries[b"p/a"].revision


async def test_a_lease_that_ends_early_is_noticed_at_the_next_probe_and_its_keys_are_written_again() -> None:
    clock = ManualClock()
    store = MemoryServer(clock)
    client = MemoryStore(store)
    session = LeaseSession(client, keys_per_lease=1, clock=clock)
    shared = SharedStore(client, session, b"p/", b"canary", clock=clock)
    async with running(session, shared):
        for key in (b"a", b"b", b"c"):
            shared.upsert(key, b"1")
        shared.mark_synced()
        await settle()
        clock.advance(PROBE_S)
        await settle()
        await client.revoke(store.entries[b"p/c"].lease)
        assert b"p/c" not in store.entries
        clock.advance(PROBE_S)
        await settle()
        assert store.entries[b"p/c"].value == b"1"
        assert session.losses == 1
        assert session.early_loss == EarlyLoss(keys=1, at_s=clock.monotonic())


async def test_silence_for_a_whole_life_is_a_loss() -> None:
    clock = ManualClock()
    store = MemoryServer(clock)
    session = LeaseSession(MemoryStore(store), clock=clock)
    await session.bind([b"a"])
    lost: list[frozenset[bytes]] = []
    session.on_loss.append(lost.append)
    async with running(session):
        store.stop()
        for _ in range(int(KEY_TTL_S) - 20):
            clock.advance(1.0)
            await settle()
        assert not lost, "it may still be alive"
        for _ in range(40):
            clock.advance(1.0)
            await settle()
        assert lost == [frozenset([b"a"])]


async def test_keys_lost_together_are_told_once() -> None:
    clock = ManualClock()
    store = MemoryServer(clock)
    session = LeaseSession(MemoryStore(store), clock=clock)
    groups = await session.bind([b"a", b"b"])
    (lease,) = groups
    lost: list[frozenset[bytes]] = []
    session.on_loss.append(lost.append)
    session.report_lost(lease)
    session.report_lost(lease)
    session.invalidate()
    assert lost == [frozenset([b"a", b"b"])]


async def test_closing_revokes_every_lease() -> None:
    store = MemoryServer(ManualClock())
    client = MemoryStore(store)
    session = LeaseSession(client, keys_per_lease=1, clock=store.clock)
    for lease, keys in (await session.bind([b"a", b"b"])).items():
        await client.put(keys[0], b"x", lease=lease)
    await session.close()
    assert not store.entries
    assert not store.leases


async def test_updates_overtake_the_rest_of_a_large_first_listing_and_deletes_come_first() -> None:
    clock = ManualClock()
    store = MemoryServer(clock)
    shared = SharedStore(MemoryStore(store), None, b"", b"canary", clock=clock)
    for number in range(1000):
        shared.upsert(b"bulk%04d" % number, b"x")
    shared.upsert(b"gone", b"x")
    shared.mark_synced()
    shared.upsert(b"update", b"1")
    shared.upsert(b"zz", b"1")
    shared.delete(b"gone")
    task = asyncio.create_task(shared.run())
    async with asyncio.timeout(5):
        await shared.synced.wait()
    first = [event.key for event in store.history if event.revision == 2]
    assert first[:2] == [b"update", b"zz"], "the delete was of a key never written, so it is no event"
    assert len(first) == 127
    assert len(store.entries) == 1003
    task.cancel()
    await asyncio.wait([task])


async def test_a_stream_of_updates_does_not_keep_the_first_listing_from_ending() -> None:
    clock = ManualClock()
    store = MemoryServer(clock)
    shared = SharedStore(MemoryStore(store), None, b"", b"canary", clock=clock)
    for number in range(500):
        shared.upsert(b"bulk%04d" % number, b"x")
    shared.mark_synced()
    task = asyncio.create_task(shared.run())
    for round_number in range(200):
        for number in range(300):
            shared.upsert(b"hot%d" % number, b"%d" % round_number)
        await asyncio.sleep(0)
        if shared.synced.is_set():
            break
    assert shared.synced.is_set()
    assert shared.pending > 0, "updates were waiting all the time"
    task.cancel()
    await asyncio.wait([task])
