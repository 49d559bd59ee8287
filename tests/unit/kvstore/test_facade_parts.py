# SPDX-License-Identifier: Apache-2.0
"""What the parts of the facade decide: what a shared watch keeps and hands out, how far a client is, when a call waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from facade_parts import STATE, Call, FakeUpstream, connection_for, events, header

from kvstore.facade.connections import Connection
from kvstore.facade.grant import ClientLimits
from kvstore.facade.hub import Hub, HubPool
from kvstore.facade.ranges import Ranges
from kvstore.facade.stream import WatchStream
from kvstore.facade.watcher import NO_WATCH_ID, id_suffix
from kvstore.proto import rpc_pb2 as pb
from meshkit.clock import ManualClock, settle

A, B = STATE + b"a/", STATE + b"b/"


def end_of(key: bytes) -> bytes:
    return key[:-1] + b"0"


async def pool_and_hub(upstream: FakeUpstream, limits: ClientLimits, *keys: bytes) -> tuple[HubPool, list[Hub]]:
    pool = HubPool(upstream, limits, ManualClock())  # type: ignore[arg-type]
    hubs = [await pool.hub(key, end_of(key)) for key in keys]
    return pool, [hub for hub in hubs if hub is not None]


@pytest.mark.parametrize("watch_id", [1, 126, 127, 128, 129, 255, 256, 16_383, 16_384, (1 << 63) - 1, -1])
def test_a_watch_id_is_written_as_protobuf_writes_it(watch_id: int) -> None:
    assert id_suffix(watch_id) == pb.WatchResponse(watch_id=watch_id).SerializeToString()


@pytest.mark.parametrize(("limit", "taken"), [(300, 3), (299, 2), (200, 2), (150, 1), (1, 1)])
async def test_a_reader_is_given_what_fits_one_answer_and_one_message_at_least(limit: int, taken: int) -> None:
    upstream = FakeUpstream()
    pool, (hub,) = await pool_and_hub(upstream, ClientLimits(message_bytes=limit), A)
    for revision in (2, 3, 4):
        upstream.tell(A, events(revision, size=100))
    await settle()
    assert [len(record.raw) for record in hub.read(0)] == [100] * taken
    assert hub.read(0)[0].first == 2
    await pool.close()


async def test_histories_may_fill_their_bound_and_one_byte_more_ends_those_that_nobody_reads() -> None:
    upstream = FakeUpstream()
    pool, (read, unread) = await pool_and_hub(upstream, ClientLimits(history_bytes_total=200), A, B)
    read.join(lambda: None)
    upstream.tell(A, events(2, size=100))
    upstream.tell(B, events(3, size=100))
    await settle()
    assert (pool.history_bytes, len(pool), unread.ended) == (200, 2, None)
    upstream.tell(A, events(4, size=60))
    await settle()
    assert (pool.history_bytes, len(pool)) == (160, 1)
    assert unread.ended is not None
    assert read.ended is None
    await pool.close()


@asynccontextmanager
async def watching(upstream: FakeUpstream, call: Call) -> AsyncIterator[None]:
    clock, limits = ManualClock(), ClientLimits()
    pool = HubPool(upstream, limits, clock)  # type: ignore[arg-type]
    stream = WatchStream(
        call,  # type: ignore[arg-type]
        connection_for(limits, clock),
        upstream,  # type: ignore[arg-type]
        pool,
        limits=limits,
        clock=clock,
    )
    task = asyncio.create_task(stream.serve())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        await pool.close()


async def progress(call: Call) -> int:
    """The revision that the client is told when it asks how far it is."""
    call.ask(progress_request=pb.WatchProgressRequest())
    await settle(50)
    assert call.sent[-1].watch_id == NO_WATCH_ID
    return int(call.sent[-1].header.revision)


async def test_progress_is_that_of_the_watch_which_is_furthest_behind() -> None:
    upstream, call = FakeUpstream(revision=100), Call()
    async with watching(upstream, call):
        assert await progress(call) == 100, "without watches, where the store is"
        for key in (A, B):
            call.ask(create_request=pb.WatchCreateRequest(key=key, range_end=end_of(key)))
        upstream.tell(A, pb.WatchResponse(header=header(120)))
        upstream.tell(B, pb.WatchResponse(header=header(150)))
        await settle(50)
        assert [answer.created for answer in call.sent[1:]] == [True, True]
        assert await progress(call) == 120
        upstream.tell(A, pb.WatchResponse(header=header(170)))
        await settle(50)
        assert await progress(call) == 150


async def test_a_range_waits_for_what_its_client_used_before_and_adds_nothing_to_it() -> None:
    clock, upstream, call = ManualClock(), FakeUpstream(), Call()
    limits = ClientLimits(bytes_per_s=10, bytes_burst=20)
    connection = connection_for(limits, clock)
    assert connection.charge(40) == pytest.approx(2.0)
    ranges = Ranges(upstream, limits, clock)  # type: ignore[arg-type]
    request = pb.RangeRequest(key=STATE + b"x")
    serving = asyncio.create_task(ranges.serve(request, connection, call))  # type: ignore[arg-type]
    await settle()
    assert (upstream.asked, connection.ranges, len(connection.calls)) == ([], 1, 1)
    clock.advance(1.99)
    await settle()
    assert upstream.asked == []
    clock.advance(0.01)
    await settle()
    assert [asked.key for asked in upstream.asked] == [STATE + b"x"]
    assert connection.client.bytes.reserve(0) == pytest.approx(0.0)
    upstream.answer.set_result(b"answer")
    assert await serving == b"answer"
    assert (connection.ranges, len(connection.calls), connection.bytes_sent) == (0, 0, 46)


def ranging(ranges: Ranges, connection: Connection, key: bytes = STATE + b"x", end: bytes = b"") -> asyncio.Task[bytes]:
    return asyncio.create_task(ranges.serve(pb.RangeRequest(key=key, range_end=end), connection, Call()))  # type: ignore[arg-type]


async def test_a_range_that_waits_for_what_its_client_used_ends_with_the_grant() -> None:
    clock, upstream = ManualClock(), FakeUpstream()
    limits = ClientLimits(bytes_per_s=10, bytes_burst=20)
    connection = connection_for(limits, clock)
    connection.charge(40)
    serving = ranging(Ranges(upstream, limits, clock), connection)  # type: ignore[arg-type]
    await settle()
    (call,) = connection.calls
    call.end(grpc.StatusCode.PERMISSION_DENIED, "withdrawn")
    clock.advance(2.0)
    await settle()
    assert upstream.asked == []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await serving
    assert (caught.value.code(), connection.calls) == (grpc.StatusCode.PERMISSION_DENIED, set())


async def test_ranges_that_wait_for_a_place_wait_for_the_bytes_of_those_before_too() -> None:
    clock, upstream = ManualClock(), FakeUpstream()
    limits = ClientLimits(bytes_per_s=10, bytes_burst=20, ranges_at_once_per_client=1)
    connection = connection_for(limits, clock)
    ranges = Ranges(upstream, limits, clock)  # type: ignore[arg-type]
    serving = [ranging(ranges, connection) for _ in range(3)]
    await settle()
    upstream.answer.set_result(b"x" * 40)
    await settle()
    assert len(upstream.asked) == 1
    clock.advance(2.0)
    await settle()
    assert len(upstream.asked) == 2
    clock.advance(4.0)
    assert await asyncio.gather(*serving) == [b"x" * 40] * 3


@pytest.mark.parametrize("waits_for", ["what it has not taken", "what it used"])
async def test_who_waits_takes_no_place_that_all_share(waits_for: str) -> None:
    clock, upstream = ManualClock(), FakeUpstream()
    limits = ClientLimits(unpaged_at_once=1, in_flight_bytes_per_client=1, bytes_per_s=1, bytes_burst=1)
    greedy, other = connection_for(limits, clock), connection_for(limits, clock)
    if waits_for == "what it used":
        greedy.charge(1000)
    else:
        greedy.client.in_flight.add(1)
    ranges = Ranges(upstream, limits, clock)  # type: ignore[arg-type]
    waiting = ranging(ranges, greedy, STATE, end_of(STATE))
    await settle()
    upstream.answer.set_result(b"answer")
    assert await asyncio.wait_for(ranging(ranges, other, STATE, end_of(STATE)), 5) == b"answer"
    assert len(upstream.asked) == 1
    waiting.cancel()


async def test_streams_that_wait_for_the_store_share_the_watches_that_are_left() -> None:
    clock, upstream, limits = ManualClock(), FakeUpstream(), ClientLimits(watches_per_client=2)
    gate, calls = asyncio.Event(), [Call() for _ in range(5)]
    upstream.refresh = gate.wait  # type: ignore[assignment, method-assign]
    pool, connection = HubPool(upstream, limits, clock), connection_for(limits, clock)  # type: ignore[arg-type]
    for call in calls:
        call.ask(create_request=pb.WatchCreateRequest(key=A, range_end=end_of(A)))
    streams = [WatchStream(call, connection, upstream, pool, limits=limits, clock=clock) for call in calls]  # type: ignore[arg-type]
    serving = [asyncio.create_task(stream.serve()) for stream in streams]
    await settle(50)
    assert connection.client.watches == 0
    gate.set()
    await settle(100)
    assert connection.client.watches == 2
    assert sorted(call.sent[0].canceled for call in calls) == [False, False, True, True, True]
    for task in serving:
        task.cancel()
    await asyncio.wait(serving)
    await pool.close()
