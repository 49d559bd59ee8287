# SPDX-License-Identifier: Apache-2.0
"""List, watch, sweep: a reader ends with what the store has, whatever happens between, on both stores."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from kvstore.store import ChangeKind, Phase
from tests.contract.kvstore.stores_under_test import (
    Recorder,
    StoreUnderTest,
    TextCodec,
    paged,
    reading,
    until_applied,
    until_written,
)
from tests.integration.kvstore.private_etcd import eventually
from tests.support.watchstore import WatchStore


async def test_phases_come_as_listing_changes_listed_changes(store: StoreUnderTest, prefix: bytes) -> None:
    client = store.client(paged(2))
    await client.apply({prefix + b"%d" % number: b"x" for number in range(3)})
    batches = client.list_and_watch(prefix)
    seen = []
    async for batch in batches:
        seen.append((batch.phase, len(batch.events)))
        if len(seen) == 5:
            await client.put(prefix + b"9", b"y")
        if len(seen) == 6:
            break
    await batches.aclose()
    listing = [(Phase.LISTING, 0), (Phase.CHANGES, 2), (Phase.CHANGES, 1), (Phase.LISTED, 0)]
    assert seen == [*listing, (Phase.CHANGES, 0), (Phase.CHANGES, 1)]


async def test_a_reader_knows_what_was_there_and_what_changes(store: StoreUnderTest, prefix: bytes) -> None:
    client = store.client()
    await client.apply({prefix + b"a": b"1", prefix + b"b": b"2"})
    async with reading(store.client(), prefix) as reader:
        assert reader.values == {b"a": "1", b"b": "2"}
        await client.apply({prefix + b"a": b"1x", prefix + b"b": None, prefix + b"c": b"3"})
        await eventually(lambda: reader.values == {b"a": "1x", b"c": "3"})
        assert reader.heard.calls[2:] == [("upsert", b"a", "1x"), ("delete", b"b", "2"), ("upsert", b"c", "3")]


async def test_an_equal_value_is_not_told_twice(store: StoreUnderTest, prefix: bytes) -> None:
    client = store.client()
    await client.put(prefix + b"a", b"1")
    async with reading(store.client(), prefix) as reader:
        await client.put(prefix + b"a", b"1")
        await client.put(prefix + b"b", b"2")
        await eventually(lambda: b"b" in reader.values)
        assert reader.heard.calls == [("upsert", b"a", "1"), ("upsert", b"b", "2")]


async def test_an_undecodable_value_is_counted_and_absent(store: StoreUnderTest, prefix: bytes) -> None:
    client = store.client()
    await client.apply({prefix + b"bad": b"!", prefix + b"good": b"1", prefix + b"turns": b"fine"})
    async with reading(store.client(), prefix) as reader:
        assert reader.values == {b"good": "1", b"turns": "fine"}
        await client.put(prefix + b"turns", b"! bad")
        await eventually(lambda: reader.values == {b"good": "1"})
        assert reader.store.rejected == {"exclaimed": 2}
        await client.put(prefix + b"bad", b"better")
        await eventually(lambda: reader.values == {b"good": "1", b"bad": "better"})


async def test_a_cut_connection_deletes_nothing_and_misses_nothing(store: StoreUnderTest, prefix: bytes) -> None:
    writer, client = store.client(), store.client()
    await writer.apply({prefix + b"a": b"1", prefix + b"b": b"2"})
    async with reading(client, prefix) as reader:
        await store.go_down()
        await eventually(lambda: not reader.store.is_connected, "the reader notices")
        assert reader.values == {b"a": "1", b"b": "2"}
        await store.come_back()
        await until_written(writer, prefix + b"b", None)
        await eventually(lambda: reader.values == {b"a": "1"})
        assert reader.store.is_connected
        assert reader.store.lists == 1, "a short absence is caught up, not listed again"
        assert reader.heard.counts == {"upsert": 2, "delete": 1}


async def test_a_cut_in_the_middle_of_a_catch_up_loses_and_repeats_nothing(
    store: StoreUnderTest, prefix: bytes
) -> None:
    writer, client = store.client(), store.client()
    await writer.put(prefix + b"first", b"x")
    async with reading(client, prefix) as reader:
        await store.go_down()
        await eventually(lambda: not reader.store.is_connected)
        await store.come_back()
        store.cut_next_catch_up()
        for start in range(0, 3000, 100):
            await until_applied(writer, {prefix + b"%04d" % number: b"v" * 100 for number in range(start, start + 100)})
        await eventually(lambda: len(reader.values) == 3001, "all arrive")
        assert store.has_cut
        assert reader.heard.counts == {"upsert": 3001}
        assert reader.store.lists == 1


async def test_history_compacted_while_away_means_listing_again(store: StoreUnderTest, prefix: bytes) -> None:
    writer, client = store.client(), store.client()
    await writer.apply({prefix + b"kept": b"1", prefix + b"deleted": b"2", prefix + b"changed": b"3"})
    async with reading(client, prefix) as reader:
        await store.go_down()
        await eventually(lambda: not reader.store.is_connected)
        await store.come_back()
        store_side = store.client()
        await reader.stop()
        await until_applied(store_side, {prefix + b"deleted": None, prefix + b"changed": b"3x", prefix + b"new": b"4"})
        await store.compact()
        heard_before = len(reader.heard.calls)
        # the same store object goes on with another run, as after a reconnect
        reader.task = asyncio.create_task(reader.store.run(store.client(), prefix))
        await eventually(lambda: reader.values == {b"kept": "1", b"changed": "3x", b"new": "4"})
        assert sorted(reader.heard.calls[heard_before:]) == [
            ("delete", b"deleted", "2"),
            ("upsert", b"changed", "3x"),
            ("upsert", b"new", "4"),
        ]


async def test_a_watch_from_compacted_history_lists_again_by_itself(store: StoreUnderTest, prefix: bytes) -> None:
    writer = store.client()
    await writer.put(prefix + b"a", b"1")
    async with reading(store.client(), prefix) as reader:
        for round_number in range(3):
            await store.go_down()
            await eventually(lambda: not reader.store.is_connected)
            await store.come_back()
            await until_written(writer, prefix + b"a", b"%d" % round_number)
            await until_written(writer, prefix + b"b", b"%d" % round_number)
            await store.compact()
            expected = {b"a": str(round_number), b"b": str(round_number)}
            await eventually(lambda expected=expected: reader.values == expected)
        assert "delete" not in reader.heard.counts


async def test_a_deletion_at_the_compacted_revision_is_not_passed_over(store: StoreUnderTest, prefix: bytes) -> None:
    """Many releases of etcd forget it, and let a watch begin there as if nothing was missing (etcd issue 18089)."""
    client, known = store.client(), dict[bytes, bytes]()
    await client.put(prefix + b"a", b"1")
    async with asyncio.timeout(10), aclosing(client.list_and_watch(prefix)) as batches:
        async for batch in batches:
            if batch.phase is Phase.LISTED:
                break
        await client.apply({prefix + b"a": None})
        await store.compact()
        await client.put(prefix + b"b", b"2")
        known[b"a"] = b"1"
        async for batch in batches:
            if batch.phase is Phase.LISTING:
                known.clear()
            for event in batch.events:
                known.pop(event.key[len(prefix) :], None)
                if event.kind is ChangeKind.PUT:
                    known[event.key[len(prefix) :]] = event.value
            if b"b" in known:
                break
    assert known == {b"b": b"2"}


async def test_a_live_reader_is_not_disturbed_by_compaction(store: StoreUnderTest, prefix: bytes) -> None:
    client = store.client()
    await client.put(prefix + b"a", b"1")
    async with reading(store.client(), prefix) as reader:
        await client.put(prefix + b"a", b"2")
        await eventually(lambda: reader.values == {b"a": "2"})
        await store.compact()
        await client.put(prefix + b"a", b"3")
        await eventually(lambda: reader.values == {b"a": "3"})
        assert reader.store.lists == 1


async def test_a_revoked_lease_is_seen_as_deletes(store: StoreUnderTest, prefix: bytes) -> None:
    client = store.client()
    lease = await client.grant(60)
    for start in range(0, 500, 100):
        await client.apply({prefix + b"%d" % number: b"x" for number in range(start, start + 100)}, lease=lease)
    await client.put(prefix + b"stays", b"x")
    async with reading(store.client(), prefix) as reader:
        assert len(reader.values) == 501
        await client.revoke(lease)
        await eventually(lambda: reader.values == {b"stays": "x"})


async def test_disconnect_keeps_and_drain_deletes(store: StoreUnderTest, prefix: bytes) -> None:
    client = store.client()
    await client.apply({prefix + b"a": b"1", prefix + b"b": b"2"})
    async with reading(store.client(), prefix) as reader:
        await reader.stop()
        assert reader.values == {b"a": "1", b"b": "2"}
        assert not reader.store.synced.is_set()
        assert "delete" not in reader.heard.counts
        reader.store.drain()
        assert reader.values == {}
        assert reader.heard.counts["delete"] == 2


async def test_nothing_is_listed_before_the_canary_exists(store: StoreUnderTest, prefix: bytes) -> None:
    client, canary = store.client(), b"cilium/synced/" + prefix
    await client.put(prefix + b"half", b"1")
    async with reading(store.client(), prefix, canary=canary, wait=False) as reader:
        await client.put(prefix + b"other", b"2")
        await client.put(canary + b"longer", b"not the canary itself")
        assert reader.store.lists == 0
        await client.put(canary, b"now")
        await eventually(reader.store.synced.is_set)
        assert reader.values == {b"half": "1", b"other": "2"}


async def test_a_wiped_and_refilled_store_deletes_nothing_that_comes_back(store: StoreUnderTest, prefix: bytes) -> None:
    canary = b"cilium/synced/" + prefix
    before = store.client()
    await before.apply({prefix + b"%d" % number: b"x" for number in range(50)})
    await before.put(canary, b"t")
    async with reading(store.client(), prefix, canary=canary) as reader:
        await store.wipe()
        await eventually(lambda: not reader.store.is_connected)
        after = store.client()
        # refilled in halves, and one key does not come back; the canary comes last
        await until_applied(after, {prefix + b"%d" % number: b"x" for number in range(25)})
        assert len(reader.values) == 50, "an unfinished store must not be read"
        await until_applied(after, {prefix + b"%d" % number: b"x" for number in range(25, 49)})
        await until_written(after, canary, b"t")
        await eventually(lambda: len(reader.values) == 49)
        assert reader.heard.calls[50:] == [("delete", b"49", "x")]


async def test_a_store_that_lost_its_data_under_the_same_id_is_noticed(store: StoreUnderTest, prefix: bytes) -> None:
    before = store.client()
    for number in range(20):
        await before.put(prefix + b"a", b"%d" % number)
    async with reading(store.client(), prefix) as reader:
        await store.wipe(keep_id=True)
        after = store.client()
        await until_written(after, prefix + b"b", b"new")
        await eventually(lambda: reader.values == {b"b": "new"}, "the old revision is in the future of the new store")


async def test_another_store_behind_the_same_address_is_listed_again(store: StoreUnderTest, prefix: bytes) -> None:
    changes: list[str] = []
    client = store.client()
    client.on_store_change.append(lambda: changes.append("changed"))
    await client.put(prefix + b"a", b"1")
    async with reading(client, prefix) as reader:
        await store.wipe()
        after = store.client()
        # as many revisions as the old store had and more, so only the id gives it away
        for number in range(60):
            await until_written(after, prefix + b"b", b"%d" % number)
        await eventually(lambda: reader.values == {b"b": "59"})
        assert changes, "whoever holds leases in the old store is told"


async def test_a_reader_goes_over_to_another_backend_without_a_gap(store: StoreUnderTest, prefix: bytes) -> None:
    client = store.client()
    await client.apply({prefix + b"a": b"1", prefix + b"b": b"2"})
    heard = Recorder()
    watch_store: WatchStore[str] = WatchStore(TextCodec(), heard)
    for _ in range(2):
        task = asyncio.create_task(watch_store.run(store.client(), prefix))
        await eventually(watch_store.synced.is_set)
        task.cancel()
        await asyncio.wait([task])
    assert heard.counts == {"upsert": 2}
