# SPDX-License-Identifier: Apache-2.0
"""Reading and writing keys, on the in-memory store and on a real etcd."""

from __future__ import annotations

import pytest

from kvstore.errors import LeaseLost, Rejected
from tests.contract.kvstore.stores_under_test import StoreUnderTest, paged


async def test_a_key_has_the_value_put_last_and_its_revision(store: StoreUnderTest, prefix: bytes) -> None:
    client = store.client()
    assert await client.get(prefix + b"a") is None
    first = await client.put(prefix + b"a", b"1")
    second = await client.put(prefix + b"a", b"2")
    entry = await client.get(prefix + b"a")
    assert entry is not None
    assert (entry.value, entry.revision, second > first) == (b"2", second, True)


async def test_create_takes_only_a_key_that_does_not_exist(store: StoreUnderTest, prefix: bytes) -> None:
    client = store.client()
    assert await client.create(prefix + b"a", b"mine")
    assert not await client.create(prefix + b"a", b"theirs")
    entry = await client.get(prefix + b"a")
    assert entry is not None
    assert entry.value == b"mine"


async def test_replace_takes_only_the_revision_it_was_told(store: StoreUnderTest, prefix: bytes) -> None:
    client = store.client()
    revision = await client.put(prefix + b"a", b"1")
    assert await client.replace(prefix + b"a", b"2", mod_revision=revision)
    assert not await client.replace(prefix + b"a", b"3", mod_revision=revision)
    entry = await client.get(prefix + b"a")
    assert entry is not None
    assert entry.value == b"2"


async def test_apply_puts_and_deletes_at_one_revision(store: StoreUnderTest, prefix: bytes) -> None:
    client = store.client()
    await client.put(prefix + b"old", b"x")
    revision = await client.apply({prefix + b"old": None, prefix + b"a": b"1", prefix + b"b": b"2"})
    entries = [entry async for page in client.list(prefix) for entry in page.entries]
    assert [(entry.key[len(prefix) :], entry.value, entry.revision) for entry in entries] == [
        (b"a", b"1", revision),
        (b"b", b"2", revision),
    ]


async def test_apply_refuses_more_than_128_operations_and_applies_none(store: StoreUnderTest, prefix: bytes) -> None:
    client = store.client()
    with pytest.raises(Rejected):
        await client.apply({prefix + b"%d" % number: b"x" for number in range(129)})
    assert [page.entries async for page in client.list(prefix)] == [[]]
    await client.apply({prefix + b"%d" % number: b"x" for number in range(128)})


async def test_an_empty_key_is_rejected(store: StoreUnderTest) -> None:
    with pytest.raises(Rejected):
        await store.client().put(b"", b"x")


async def test_delete_prefix_leaves_the_neighbours(store: StoreUnderTest, prefix: bytes) -> None:
    client = store.client()
    inner, neighbour = prefix + b"c1/", prefix + b"c11/"
    await client.apply({inner + b"a": b"1", inner + b"b": b"2", neighbour + b"a": b"3"})
    assert await client.delete_prefix(inner) == 2
    assert [entry.key async for page in client.list(prefix) for entry in page.entries] == [neighbour + b"a"]


@pytest.mark.parametrize("size", [1, 7, 100])
async def test_every_page_of_a_listing_is_as_of_the_first(store: StoreUnderTest, prefix: bytes, size: int) -> None:
    client = store.client(paged(size))
    wanted = {prefix + b"%03d" % number: b"v" for number in range(20)}
    await client.apply(wanted)
    seen: list[bytes] = []
    pages = []
    async for page in client.list(prefix):
        pages.append((page.revision, page.cluster_id))
        seen += [entry.key for entry in page.entries]
        # written while the listing is under way: must not appear in it
        await client.put(prefix + b"9%03d" % len(pages), b"later")
    assert seen == sorted(wanted)
    assert len(set(pages)) == 1
    assert len(pages) == -(-len(wanted) // size)


async def test_keys_of_a_revoked_lease_are_gone(store: StoreUnderTest, prefix: bytes) -> None:
    client = store.client()
    lease = await client.grant(60)
    await client.put(prefix + b"leased", b"x", lease=lease)
    await client.put(prefix + b"free", b"x")
    assert (await client.keep_alive([lease]))[lease] == 60
    await client.revoke(lease)
    assert [entry.key async for page in client.list(prefix) for entry in page.entries] == [prefix + b"free"]


async def test_a_lease_that_is_gone_says_so(store: StoreUnderTest, prefix: bytes) -> None:
    client = store.client()
    lease = await client.grant(60)
    await client.revoke(lease)
    assert (await client.keep_alive([lease]))[lease] == 0
    with pytest.raises(LeaseLost):
        await client.put(prefix + b"a", b"x", lease=lease)


async def test_status_tells_the_revision_and_the_store(store: StoreUnderTest, prefix: bytes) -> None:
    client = store.client()
    revision = await client.put(prefix + b"a", b"x")
    status = await client.status()
    assert status.revision >= revision
    assert status.cluster_id
    assert status.alarms == ()
