# SPDX-License-Identifier: Apache-2.0
"""Publishing: the store has what is wanted, on leases, whatever is lost meanwhile, on both stores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from kvstore.lease import LeaseSession
from kvstore.sharedstore import SharedStore
from kvstore.store import LeaseStore
from tests.contract.kvstore.stores_under_test import StoreUnderTest, contents, paged, reading
from tests.integration.kvstore.private_etcd import eventually


@dataclass
class Writer:
    """A running SharedStore with its leases."""

    client: LeaseStore
    session: LeaseSession
    store: SharedStore


@asynccontextmanager
async def writing(
    client: LeaseStore, prefix: bytes, *, canary: bytes | None = None, keys_per_lease: int = 1000, ttl_s: float = 900
) -> AsyncIterator[Writer]:
    session = LeaseSession(client, ttl_s=ttl_s, keys_per_lease=keys_per_lease)
    store = SharedStore(client, session, prefix, canary)
    tasks = [asyncio.create_task(store.run()), asyncio.create_task(session.run())]
    try:
        yield Writer(client, session, store)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def flushed(writer: Writer) -> None:
    """Everything wanted is written."""
    await eventually(lambda: writer.store.pending == 0, "all written")


async def test_what_is_wanted_is_there_and_then_the_canary(store: StoreUnderTest, prefix: bytes) -> None:
    canary = b"cilium/synced/" + prefix
    async with (
        reading(store.client(), prefix, canary=canary, wait=False) as reader,
        writing(store.client(), prefix, canary=canary) as writer,
    ):
        for number in range(1000):
            writer.store.upsert(b"%d" % number, b"v%d" % number)
        await flushed(writer)
        assert await writer.client.get(canary) is None, "not before the source has listed everything"
        writer.store.mark_synced()
        async with asyncio.timeout(10):
            await writer.store.synced.wait()
        await eventually(lambda: len(reader.values) == 1000)
        assert reader.store.lists == 1
        assert writer.store.transactions < 20, "batched"


async def test_an_empty_kind_gets_its_canary_too(store: StoreUnderTest, prefix: bytes) -> None:
    canary = b"cilium/synced/" + prefix
    async with writing(store.client(), prefix, canary=canary) as writer:
        writer.store.mark_synced()
        async with asyncio.timeout(10):
            await writer.store.synced.wait()
        assert await writer.client.get(canary) is not None


async def test_only_the_newest_value_of_a_key_is_written(store: StoreUnderTest, prefix: bytes) -> None:
    async with writing(store.client(), prefix) as writer:
        for number in range(100):
            writer.store.upsert(b"a", b"%d" % number)
        writer.store.upsert(b"b", b"gone before it was written")
        writer.store.delete(b"b")
        await flushed(writer)
        assert await contents(writer.client, prefix) == {b"a": b"99"}
        assert writer.store.transactions == 1


async def test_equal_bytes_are_not_written_again(store: StoreUnderTest, prefix: bytes) -> None:
    async with writing(store.client(), prefix) as writer:
        writer.store.upsert(b"a", b"1")
        await flushed(writer)
        entry = await writer.client.get(prefix + b"a")
        writer.store.upsert(b"a", b"1")
        writer.store.upsert(b"b", b"2")
        await flushed(writer)
        assert await writer.client.get(prefix + b"a") == entry


async def test_a_delete_of_a_key_never_wanted_does_nothing(store: StoreUnderTest, prefix: bytes) -> None:
    foreign = store.client()
    await foreign.put(prefix + b"foreign", b"x")
    async with writing(store.client(), prefix) as writer:
        writer.store.delete(b"foreign")
        assert writer.store.pending == 0
        assert await contents(foreign, prefix) == {b"foreign": b"x"}


async def test_more_keys_than_fit_a_lease_hang_on_several(store: StoreUnderTest, prefix: bytes) -> None:
    async with writing(store.client(), prefix, keys_per_lease=100) as writer:
        for number in range(250):
            writer.store.upsert(b"%03d" % number, b"x")
        await flushed(writer)
        leases = [entry.lease async for page in writer.client.list(prefix) for entry in page.entries]
        assert 0 not in leases
        assert sorted(leases.count(lease) for lease in set(leases)) == [50, 100, 100]
        # room on a lease is given back by deletes
        for number in range(100):
            writer.store.delete(b"%03d" % number)
            writer.store.upsert(b"new%03d" % number, b"x")
        await flushed(writer)
        assert len(writer.session.leases) <= 4


async def test_a_lost_lease_brings_back_its_keys_and_only_those(store: StoreUnderTest, prefix: bytes) -> None:
    canary = b"cilium/synced/" + prefix
    async with writing(store.client(), prefix, canary=canary, keys_per_lease=100, ttl_s=3) as writer:
        for number in range(200):
            writer.store.upsert(b"%03d" % number, b"x")
        writer.store.mark_synced()
        await eventually(writer.store.synced.is_set)
        before = {entry.key: entry async for page in writer.client.list(prefix) for entry in page.entries}
        lost = writer.session.leases[0]
        await store.client().revoke(lost)
        await eventually(lambda: writer.session.losses == 1, "the keep-alive tells")
        await flushed(writer)
        await eventually(lambda: lost not in writer.session.leases)
        after = {entry.key: entry async for page in writer.client.list(prefix) for entry in page.entries}
        assert after.keys() == before.keys()
        rewritten = {key for key in after if after[key].revision != before[key].revision}
        assert rewritten == {key for key, entry in before.items() if entry.lease == lost}


async def test_changes_of_keys_on_many_leases_are_one_transaction(store: StoreUnderTest, prefix: bytes) -> None:
    async with writing(store.client(), prefix, keys_per_lease=10) as writer:
        for number in range(200):
            writer.store.upsert(b"%03d" % number, b"x")
        writer.store.mark_synced()
        await flushed(writer)
        before = {entry.key: entry.lease async for page in writer.client.list(prefix) for entry in page.entries}
        written = writer.store.transactions
        for number in range(0, 200, 10):
            writer.store.upsert(b"%03d" % number, b"changed")
        writer.store.delete(b"005")
        await flushed(writer)
        assert writer.store.transactions == written + 1
        del before[prefix + b"005"]
        after = {entry.key: entry.lease async for page in writer.client.list(prefix) for entry in page.entries}
        assert after == before, "each key stays on its lease"


async def test_of_changes_on_many_leases_only_the_lost_ones_wait(store: StoreUnderTest, prefix: bytes) -> None:
    async with writing(store.client(), prefix, keys_per_lease=10) as writer:
        for number in range(50):
            writer.store.upsert(b"%03d" % number, b"x")
        writer.store.mark_synced()
        await flushed(writer)
        first, second, *kept = writer.session.leases
        await store.client().revoke(first)
        await store.client().revoke(second)
        for number in range(0, 50, 10):
            writer.store.upsert(b"%03d" % number, b"changed")
        await flushed(writer)
        assert writer.session.losses == 2, "found without waiting for the keep-alive"
        assert set(kept) < set(writer.session.leases)
        assert writer.store.failures == 1
        expected = {b"%03d" % number: b"x" if number % 10 else b"changed" for number in range(50)}
        assert await contents(writer.client, prefix) == expected


async def test_a_put_on_a_lost_lease_is_noticed_at_once(store: StoreUnderTest, prefix: bytes) -> None:
    async with writing(store.client(), prefix) as writer:
        writer.store.upsert(b"a", b"1")
        await flushed(writer)
        await store.client().revoke(writer.session.leases[0])
        writer.store.upsert(b"b", b"2")
        await flushed(writer)
        await eventually(lambda: writer.session.losses == 1)
        await flushed(writer)
        assert await contents(writer.client, prefix) == {b"a": b"1", b"b": b"2"}


async def test_a_wiped_store_is_filled_again_with_the_canary_last(store: StoreUnderTest, prefix: bytes) -> None:
    canary = b"cilium/synced/" + prefix
    async with writing(store.client(), prefix, canary=canary, ttl_s=3) as writer:
        for number in range(300):
            writer.store.upsert(b"%03d" % number, b"x")
        writer.store.mark_synced()
        await eventually(writer.store.synced.is_set)
        async with reading(store.client(), prefix, canary=canary) as reader:
            assert len(reader.values) == 300
            await store.wipe()
            await eventually(lambda: reader.store.lists == 2, "filled again, by itself")
            await eventually(reader.store.synced.is_set)
            await eventually(lambda: len(reader.values) == 300)
            assert "delete" not in reader.heard.counts, "no reader ever saw the empty store"
        await flushed(writer)

        async def found() -> int:
            return len(await contents(writer.client, prefix))

        assert await found() == 300


async def test_a_record_the_store_refuses_does_not_hold_up_the_others(store: StoreUnderTest, prefix: bytes) -> None:
    async with writing(store.client(), b"") as writer:
        writer.store.upsert(b"", b"etcd takes no empty key")
        writer.store.upsert(prefix + b"a", b"1")
        writer.store.upsert(prefix + b"b", b"2")
        await flushed(writer)
        assert await contents(writer.client, prefix) == {b"a": b"1", b"b": b"2"}
        assert sum(writer.store.rejected.values()) == 1


async def test_large_values_are_split_over_transactions(store: StoreUnderTest, prefix: bytes) -> None:
    async with writing(store.client(), prefix) as writer:
        for number in range(20):
            writer.store.upsert(b"%d" % number, b"x" * 200_000)
        await flushed(writer)
        assert len(await contents(writer.client, prefix)) == 20
        assert not writer.store.rejected


async def test_writing_goes_on_after_the_store_was_away(store: StoreUnderTest, prefix: bytes) -> None:
    async with writing(store.client(), prefix) as writer:
        writer.store.upsert(b"a", b"1")
        await flushed(writer)
        await store.go_down()
        writer.store.upsert(b"a", b"2")
        writer.store.upsert(b"b", b"3")
        await eventually(lambda: writer.store.failures > 0)
        assert writer.store.last_error
        writer.store.upsert(b"a", b"4")
        await store.come_back()
        await flushed(writer)
        assert await contents(writer.client, prefix) == {b"a": b"4", b"b": b"3"}


async def test_what_somebody_else_changed_is_found_and_written_again(store: StoreUnderTest, prefix: bytes) -> None:
    canary, other = b"cilium/synced/" + prefix, store.client()
    async with writing(store.client(), prefix, canary=canary) as writer:
        for number in range(300):
            writer.store.upsert(b"%d" % number, b"v%d" % number)
        writer.store.mark_synced()
        async with asyncio.timeout(10):
            await writer.store.synced.wait()
        wanted = await contents(other, prefix)
        assert len(wanted) == 300
        assert await writer.store.read_back() == 0
        await other.apply({prefix + b"7": b"foreign", prefix + b"8": None, prefix + b"new": b"foreign", canary: None})
        assert await writer.store.read_back() == 4
        await flushed(writer)
        await eventually(lambda: writer.store.pending == 0)
        assert await contents(other, prefix) == wanted
        async with asyncio.timeout(10), aclosing(other.list_and_watch(canary)) as batches:
            async for batch in batches:
                if any(event.value for event in batch.events):
                    break
        assert await writer.store.read_back() == 0
        entry = await other.get(prefix + b"9")
        assert entry is not None
        await other.put(prefix + b"9", entry.value)  # the same value, on no lease: it would outlive us
        assert await writer.store.read_back() == 1
        await flushed(writer)
        again = await other.get(prefix + b"9")
        assert again is not None
        assert again.lease
        assert writer.store.repaired == 5


async def test_a_record_on_a_foreign_lease_is_taken_back_before_that_ends(store: StoreUnderTest, prefix: bytes) -> None:
    """Its value is right, so that nobody notices; with the lease it would go, for peers too."""
    canary, other = b"cilium/synced/" + prefix, store.client()
    async with writing(store.client(), prefix, canary=canary) as writer:
        for number in range(100):
            writer.store.upsert(b"%d" % number, b"v")
        writer.store.mark_synced()
        await eventually(writer.store.synced.is_set)
        assert await writer.store.read_back() == 0
        foreign = await other.grant(60)
        await other.put(prefix + b"7", b"v", lease=foreign)
        await other.put(canary, b"foreign", lease=foreign)
        assert await writer.store.read_back() == 2
        await flushed(writer)
        async with asyncio.timeout(10), aclosing(other.list_and_watch(canary)) as batches:
            async for batch in batches:
                if any(event.value and event.value != b"foreign" for event in batch.events):
                    break
        await other.revoke(foreign)
        assert await writer.store.read_back() == 0
        entry, announced = await other.get(prefix + b"7"), await other.get(canary)
        assert entry is not None
        assert announced is not None
        assert {entry.lease, announced.lease} <= set(writer.session.leases)


async def test_a_record_on_another_writers_lease_is_left_there_where_others_write(
    store: StoreUnderTest, prefix: bytes
) -> None:
    other = store.client()
    async with writing(store.client(), prefix) as writer:
        writer.store.upsert(b"7", b"v")
        writer.store.mark_synced()
        await eventually(writer.store.synced.is_set)
        await other.put(prefix + b"7", b"v", lease=await other.grant(60))
        assert await writer.store.read_back(is_shared=True) == 0, "two replicas would take it from each other for ever"


async def test_a_foreign_change_is_found_behind_newer_ones_of_our_own(store: StoreUnderTest, prefix: bytes) -> None:
    """The number of keys is right and the newest change is ours: what lies between must be looked at too."""
    other = store.client()
    async with writing(store.client(), prefix) as writer:
        for number in range(100):
            writer.store.upsert(b"%d" % number, b"v")
        writer.store.mark_synced()
        await eventually(writer.store.synced.is_set)
        assert await writer.store.read_back() == 0
        await other.put(prefix + b"7", b"foreign")
        writer.store.upsert(b"8", b"ours")
        await flushed(writer)
        assert await writer.store.read_back() == 1
        await flushed(writer)
        assert (await contents(other, prefix))[b"7"] == b"v"
        assert await writer.store.read_back() == 0


async def test_a_writer_that_never_rests_is_read_back_all_the_same(store: StoreUnderTest, prefix: bytes) -> None:
    other = store.client()
    async with writing(store.client(), prefix) as writer:
        for number in range(100):
            writer.store.upsert(b"%d" % number, b"v")
        writer.store.mark_synced()
        await eventually(writer.store.synced.is_set)
        await other.apply({prefix + b"7": b"foreign", prefix + b"9": None, prefix + b"new": b"foreign"})
        writer.store.upsert(b"8", b"under way")
        assert writer.store.pending
        assert await writer.store.read_back() == 3
        writer.store.upsert(b"8", b"again")
        await flushed(writer)
        wanted = {b"%d" % number: b"v" for number in range(100)} | {b"8": b"again"}
        assert await contents(other, prefix) == wanted


async def test_what_changed_since_a_revision_and_how_many_there_are(store: StoreUnderTest, prefix: bytes) -> None:
    client = store.client(paged(3))
    await client.apply({prefix + b"%d" % number: b"x" for number in range(5)})
    beside = await client.put(prefix[:-1] + b"0", b"beside")
    found = await client.changed_since(prefix, beside)
    assert (found.key_count, list(found.entries), found.is_complete) == (5, [], True)
    assert found.revision >= beside
    await client.apply({prefix + b"1": b"y", prefix + b"2": None})
    found = await client.changed_since(prefix, beside)
    assert (found.key_count, [(entry.key, entry.value) for entry in found.entries]) == (4, [(prefix + b"1", b"y")])
    assert found.entries[0].revision == found.revision
    found = await client.changed_since(prefix, 0)
    assert (found.key_count, len(found.entries), found.is_complete) == (4, 3, False), "no more than a page"


async def test_other_writers_of_a_shared_prefix_keep_their_keys(store: StoreUnderTest, prefix: bytes) -> None:
    other = store.client()
    async with writing(store.client(), prefix) as writer:
        writer.store.upsert(b"ours", b"1")
        writer.store.mark_synced()
        async with asyncio.timeout(10):
            await writer.store.synced.wait()
        await other.put(prefix + b"theirs", b"2")
        assert await writer.store.read_back(is_shared=True) == 0
        await other.apply({prefix + b"ours": None})
        assert await writer.store.read_back(is_shared=True) == 1
        await flushed(writer)
        assert await contents(other, prefix) == {b"ours": b"1", b"theirs": b"2"}


async def test_a_rejected_record_is_not_taken_for_a_missing_one(store: StoreUnderTest, prefix: bytes) -> None:
    async with writing(store.client(), prefix) as writer:
        writer.store.upsert(b"large", b"x" * (4 << 20))
        writer.store.upsert(b"fine", b"1")
        writer.store.mark_synced()
        async with asyncio.timeout(20):
            await writer.store.synced.wait()
        if writer.store.rejected:  # the twin has no limit of its own
            assert await contents(store.client(), prefix) == {b"fine": b"1"}
        assert await writer.store.read_back() == 0
