# SPDX-License-Identifier: Apache-2.0
"""Writers that share their transactions: one round trip for a change of both, no harm for one from the other, on both stores."""

from __future__ import annotations

import asyncio

import pytest

from kvstore.errors import KvError, LeaseLost, Rejected
from kvstore.joined import JoinedWrites
from kvstore.store import MAX_TXN_OPS
from tests.contract.kvstore.stores_under_test import StoreUnderTest, contents


async def test_what_two_writers_ask_for_at_once_happens_at_one_revision(store: StoreUnderTest, prefix: bytes) -> None:
    client = store.client()
    writes = JoinedWrites(client)
    first, second = await asyncio.gather(
        writes.apply({prefix + b"a": b"1"}), writes.apply({prefix + b"b": b"2", prefix + b"c": None})
    )
    assert first == second
    third = await writes.apply({prefix + b"a": None})
    assert third > first
    assert await contents(client, prefix) == {b"b": b"2"}


async def test_each_key_hangs_on_the_lease_of_its_writer(store: StoreUnderTest, prefix: bytes) -> None:
    client = store.client()
    writes = JoinedWrites(client)
    mine, others = await client.grant(900), await client.grant(900)
    await asyncio.gather(
        writes.apply({prefix + b"a": b"1"}, lease=mine),
        writes.apply({prefix + b"b": b"2"}, lease={prefix + b"b": others}),
        writes.apply({prefix + b"c": b"3"}),
    )
    await client.revoke(mine)
    assert await contents(client, prefix) == {b"b": b"2", b"c": b"3"}


async def test_a_lost_lease_is_told_to_its_writer_only(store: StoreUnderTest, prefix: bytes) -> None:
    client = store.client()
    writes = JoinedWrites(client)
    lost, kept = await client.grant(900), await client.grant(900)
    await client.revoke(lost)
    answers = await asyncio.gather(
        writes.apply({prefix + b"a": b"1"}, lease=lost),
        writes.apply({prefix + b"b": b"2"}, lease=kept),
        return_exceptions=True,
    )
    assert isinstance(answers[0], LeaseLost)
    assert isinstance(answers[1], int)
    assert await contents(client, prefix) == {b"b": b"2"}


async def test_a_refused_record_is_told_to_its_writer_only(store: StoreUnderTest, prefix: bytes) -> None:
    client = store.client()
    writes = JoinedWrites(client)
    answers = await asyncio.gather(
        writes.apply({prefix + b"%d" % number: b"v" for number in range(MAX_TXN_OPS + 1)}),  # both stores refuse that
        writes.apply({prefix + b"b": b"2"}),
        return_exceptions=True,
    )
    assert isinstance(answers[0], Rejected)
    assert isinstance(answers[1], int)
    assert await contents(client, prefix) == {b"b": b"2"}


async def test_more_than_one_transaction_takes_is_several(store: StoreUnderTest, prefix: bytes) -> None:
    client = store.client()
    writes = JoinedWrites(client)
    full = {prefix + b"%d" % number: b"v" for number in range(MAX_TXN_OPS)}
    large = {prefix + b"large": b"x" * (1 << 20)}
    revisions = await asyncio.gather(
        writes.apply({prefix + b"a": b"1"}),
        writes.apply(full),
        writes.apply(large),
        writes.apply({prefix + b"b": b"2"}),
    )
    assert len(set(revisions)) == 4
    assert len(await contents(client, prefix)) == MAX_TXN_OPS + 3


async def test_a_store_that_is_away_is_told_to_all(store: StoreUnderTest, prefix: bytes) -> None:
    writes = JoinedWrites(store.client())
    await store.go_down()
    answers = await asyncio.gather(
        writes.apply({prefix + b"a": b"1"}), writes.apply({prefix + b"b": b"2"}), return_exceptions=True
    )
    assert all(isinstance(answer, KvError) for answer in answers)
    await store.come_back()


async def test_a_writer_that_gave_up_writes_nothing_and_holds_nobody_up(store: StoreUnderTest, prefix: bytes) -> None:
    client = store.client()
    writes = JoinedWrites(client)
    given_up = asyncio.create_task(writes.apply({prefix + b"a": b"1"}))
    other = asyncio.create_task(writes.apply({prefix + b"b": b"2"}))
    asyncio.get_running_loop().call_soon(given_up.cancel)  # after it asked, before anything is sent
    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert await other
    assert await contents(client, prefix) == {b"b": b"2"}
