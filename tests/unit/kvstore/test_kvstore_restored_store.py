# SPDX-License-Identifier: Apache-2.0
"""A store that was put back from a backup under the same id has what its writers want, whatever they knew of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from kvstore.lease import LeaseSession
from kvstore.memory import MemoryStore
from kvstore.memoryserver import MemoryServer
from kvstore.sharedstore import SharedStore
from kvstore.store import Phase
from meshkit.clock import ManualClock, settle

PREFIX = b"cilium/state/test/"


@asynccontextmanager
async def writing(server: MemoryServer, clock: ManualClock) -> AsyncIterator[SharedStore]:
    """A writer whose client also follows something, so that it hears when the connection breaks."""
    client = MemoryStore(server)
    session = LeaseSession(client, ttl_s=60.0, clock=clock)
    store = SharedStore(client, session, PREFIX, clock=clock)
    store.mark_synced()

    async def follow() -> None:
        async for _ in client.list_and_watch(b"cilium/other/"):
            pass

    tasks = [asyncio.create_task(work) for work in (store.run(), follow())]
    try:
        yield store
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def values(server: MemoryServer) -> dict[bytes, bytes]:
    return {key.removeprefix(PREFIX): entry.value for key, entry in server.entries.items() if key.startswith(PREFIX)}


@pytest.mark.parametrize("later", [0, 20], ids=["behind", "ahead"])
@pytest.mark.parametrize("is_shared", [False, True], ids=["alone", "beside others"])
async def test_an_older_value_and_a_deleted_key_of_a_backup_do_not_stay(later: int, *, is_shared: bool) -> None:
    clock = ManualClock()
    server = MemoryServer(clock)
    async with writing(server, clock) as store:
        store.upsert(b"value", b"old")
        store.upsert(b"gone", b"1")
        await settle()
        backup = server.snapshot()
        store.upsert(b"value", b"new")
        store.delete(b"gone")
        store.upsert(b"come", b"1")
        await settle()
        assert await store.read_back(is_shared=is_shared) == 0
        assert await store.read_back(is_shared=is_shared) == 0
        server.restore(backup)
        for number in range(later):  # somebody else's writes bring the revision beyond the one that was looked at
            server.commit({b"cilium/other/%d" % number: b"x"}, 0)
        await clock.run_for(1.0)
        assert await store.read_back(is_shared=is_shared) == 3
        await settle()
        assert values(server) == {b"value": b"new", b"come": b"1"}


async def test_keys_of_others_that_a_backup_brings_back_are_theirs() -> None:
    clock = ManualClock()
    server = MemoryServer(clock)
    async with writing(server, clock) as store:
        store.upsert(b"ours", b"1")
        await settle()
        theirs = server.grant(60.0)
        server.commit({PREFIX + b"theirs": b"1"}, theirs)
        server.restore(server.snapshot())
        await clock.run_for(1.0)
        assert await store.read_back(is_shared=True) == 0
        assert values(server) == {b"ours": b"1", b"theirs": b"1"}


async def test_a_backup_holds_keys_revision_and_leases_and_no_history() -> None:
    clock = ManualClock()
    server = MemoryServer(clock)
    lease = server.grant(60.0)
    server.commit({b"a": b"1"}, lease)
    backup = server.snapshot()
    server.commit({b"a": None, b"b": b"2"}, 0)
    clock.advance(50.0)
    server.restore(backup)
    assert (server.entries.keys(), server.revision, server.compacted) == ({b"a"}, backup.revision, backup.revision)
    clock.advance(50.0)
    server.expire()
    assert server.entries, "a lease lives its full time again"
    clock.advance(10.0)
    server.expire()
    assert not server.entries
    before = server.cluster_id
    server.restore(backup, keep_id=False)
    assert server.cluster_id != before


async def test_who_follows_a_store_that_went_back_in_time_lists_it_again() -> None:
    clock = ManualClock()
    server = MemoryServer(clock)
    server.commit({b"a/1": b"1"}, 0)
    backup = server.snapshot()
    server.commit({b"a/2": b"2"}, 0)
    listed: asyncio.Queue[int] = asyncio.Queue()

    async def follow() -> None:
        async for batch in MemoryStore(server).list_and_watch(b"a/"):
            if batch.phase is Phase.LISTED:
                listed.put_nowait(batch.revision)

    task = asyncio.create_task(follow())
    await settle()
    server.restore(backup)
    await clock.run_for(5.0)
    task.cancel()
    assert listed.qsize() == 2
