# SPDX-License-Identifier: Apache-2.0
"""The facade answers as etcd does: the same requests to both, the answers compared field by field."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from kvstore.proto import rpc_pb2 as pb
from tests.integration.kvstore.facade_under_test import Facade, Plain, PlainWatch
from tests.integration.kvstore.private_etcd import needs_etcd

pytestmark = needs_etcd

ROOT = b"cilium/state/answers/"
END = b"cilium/state/answers0"

REQUESTS: dict[str, pb.RangeRequest] = {
    "one key": pb.RangeRequest(key=ROOT + b"1"),
    "a missing key": pb.RangeRequest(key=ROOT + b"missing"),
    "a prefix": pb.RangeRequest(key=ROOT, range_end=END),
    "a first page": pb.RangeRequest(key=ROOT, range_end=END, limit=3),
    "keys only": pb.RangeRequest(key=ROOT, range_end=END, keys_only=True),
    "count only": pb.RangeRequest(key=ROOT, range_end=END, count_only=True),
    "sorted by change, newest first": pb.RangeRequest(
        key=ROOT, range_end=END, sort_order=pb.RangeRequest.DESCEND, sort_target=pb.RangeRequest.MOD
    ),
    "a granted key as a range": pb.RangeRequest(
        key=b"cilium/cluster-config/north", range_end=b"cilium/cluster-config/north\0"
    ),
    "the heartbeat": pb.RangeRequest(key=b"cilium/.heartbeat"),
    "the heartbeat as a prefix": pb.RangeRequest(key=b"cilium/.heartbeat", range_end=b"cilium/.heartbeau"),
    "an empty key": pb.RangeRequest(),
    "a future revision": pb.RangeRequest(key=ROOT, range_end=END, revision=1 << 40),
    "not granted": pb.RangeRequest(key=b"cilium/cache/", range_end=b"cilium/cache0"),
    "everything": pb.RangeRequest(key=b"\0", range_end=b"\0"),
}


@pytest_asyncio.fixture
async def pair(facade: Facade) -> AsyncIterator[tuple[Plain, Plain, Facade]]:
    """Clients of etcd and of the facade with the same rights."""
    for number in range(10):
        await facade.admin.put(ROOT + b"%d" % number, b"v%d" % number)
    await facade.admin.put(b"cilium/cluster-config/north", b"{}")
    await facade.admin.put(b"cilium/.heartbeat", b"now")
    direct = Plain(facade.etcd.port, facade.pki.tls("remote-south"))
    through = Plain(facade.port, facade.south())
    yield direct, through, facade
    await direct.close()
    await through.close()


async def _answer(client: Plain, request: pb.RangeRequest) -> object:
    try:
        return await client.range(request)
    except grpc.aio.AioRpcError as exc:
        return exc.code(), exc.details()


@pytest.mark.parametrize("name", REQUESTS)
async def test_range_answers_are_etcds_own(pair: tuple[Plain, Plain, Facade], name: str) -> None:
    direct, through, _ = pair
    assert await _answer(through, REQUESTS[name]) == await _answer(direct, REQUESTS[name])


async def test_a_listing_in_pages_of_256_is_the_same(pair: tuple[Plain, Plain, Facade]) -> None:
    direct, through, facade = pair
    for start in range(0, 1000, 100):
        await facade.admin.apply({ROOT + b"many%04d" % number: b"v" for number in range(start, start + 100)})
    seen = []
    for client in (direct, through):
        key, revision, answers = ROOT, 0, []
        while True:
            request = pb.RangeRequest(key=key, range_end=END, limit=256, revision=revision)
            answers.append(await client.range(request))
            revision = revision or answers[-1].header.revision
            if not answers[-1].more:
                break
            key = answers[-1].kvs[-1].key + b"\0"
        seen.append(answers)
    assert seen[0] == seen[1]
    assert len(seen[0]) > 3


async def _both(direct: PlainWatch, through: PlainWatch) -> tuple[pb.WatchResponse, pb.WatchResponse]:
    return await direct.read(), await through.read()


async def test_a_watch_is_created_and_canceled_as_in_etcd(pair: tuple[Plain, Plain, Facade]) -> None:
    direct, through, _ = pair
    watches = direct.watch(), through.watch()
    steps: list[tuple[bytes, bytes, dict[str, object]]] = [
        (ROOT, END, {}),
        (ROOT + b"1", b"", {}),
        (ROOT, END, {"watch_id": 77}),
        (ROOT, END, {"watch_id": 77}),  # in use
        (b"cilium/state", b"cilium/statf", {}),  # not granted
        (b"", b"\0", {}),  # everything
        (ROOT, END, {}),
    ]
    for key, end, fields in steps:
        for watch in watches:
            await watch.create(key, end, **fields)
        wanted, found = await _both(*watches)
        assert found == wanted
    for watch_id in (0, 77, 1):
        for watch in watches:
            await watch.cancel(watch_id)
        wanted, found = await _both(*watches)
        assert found == wanted
    for watch in watches:
        watch.call.cancel()


async def test_events_are_the_same_live_and_from_history(pair: tuple[Plain, Plain, Facade]) -> None:
    direct, through, facade = pair
    start = await facade.admin.put(ROOT + b"1", b"first")
    await facade.admin.apply({ROOT + b"2": b"x", ROOT + b"3": None})
    watches = direct.watch(), through.watch()
    for watch in watches:
        await watch.create(ROOT, END, start_revision=start)
    seen = []
    for watch in watches:
        events: list[object] = []
        assert (await watch.read()).created
        while len(events) < 3:
            events += (await watch.read()).events
        seen.append(events)
    assert seen[0] == seen[1]
    await facade.admin.apply({ROOT + b"1": None, ROOT + b"new": b"y"})
    wanted, found = await _both(*watches)
    assert found == wanted
    for watch in watches:
        watch.call.cancel()


@pytest.mark.parametrize("hidden", [pb.WatchCreateRequest.NOPUT, pb.WatchCreateRequest.NODELETE])
async def test_filters_hide_the_same_events(
    pair: tuple[Plain, Plain, Facade], hidden: pb.WatchCreateRequest.FilterType.ValueType
) -> None:
    direct, through, facade = pair
    watches = direct.watch(), through.watch()
    for watch in watches:
        await watch.create(ROOT, END, filters=[hidden])
        assert (await watch.read()).created
    await facade.admin.apply({ROOT + b"1": b"changed", ROOT + b"2": None})
    wanted, found = await _both(*watches)
    assert found == wanted
    assert len(found.events) == 1
    for watch in watches:
        watch.call.cancel()


async def test_previous_values_come_when_asked_for(pair: tuple[Plain, Plain, Facade]) -> None:
    direct, through, facade = pair
    watches = direct.watch(), through.watch()
    for watch in watches:
        await watch.create(ROOT, END, prev_kv=True)
        assert (await watch.read()).created
    await facade.admin.put(ROOT + b"1", b"after")
    wanted, found = await _both(*watches)
    assert found == wanted
    assert found.events[0].prev_kv.value == b"v1"
    for watch in watches:
        watch.call.cancel()


async def test_a_watch_from_compacted_history_is_canceled_the_same(pair: tuple[Plain, Plain, Facade]) -> None:
    direct, through, facade = pair
    for number in range(5):
        await facade.admin.put(ROOT + b"%d" % number, b"again")
    revision = (await facade.admin.status()).revision
    await facade.admin.call(facade.admin.methods.compact, pb.CompactionRequest(revision=revision, physical=True))
    # a range nobody watched so far, so that the facade has no history of its own to help out with
    key, end = ROOT + b"3", ROOT + b"4"
    watches = direct.watch(), through.watch()
    for watch in watches:
        await watch.create(key, end, start_revision=2)
    for _ in range(2):
        wanted, found = await _both(*watches)
        assert found == wanted
    assert (found.canceled, found.compact_revision) == (True, revision)
    old = pb.RangeRequest(key=ROOT, range_end=END, revision=2)
    assert await _answer(through, old) == await _answer(direct, old)
    for watch in watches:
        watch.call.cancel()


async def test_a_watch_from_a_compacted_deletion_is_refused_and_not_begun_without_it(
    pair: tuple[Plain, Plain, Facade],
) -> None:
    """etcd itself begins it in many releases, and the client would keep the key for ever (etcd issue 18089)."""
    _, through, facade = pair
    await facade.admin.apply({ROOT + b"5": None})
    revision = (await facade.admin.status()).revision
    await facade.admin.call(facade.admin.methods.compact, pb.CompactionRequest(revision=revision, physical=True))
    await facade.admin.put(ROOT + b"5/later", b"x")
    watch = through.watch()
    await watch.create(ROOT + b"5", ROOT + b"6", start_revision=revision)
    assert (await watch.read()).created
    answer = await watch.read()
    assert (answer.canceled, answer.compact_revision, len(answer.events)) == (True, revision, 0)
    await watch.create(ROOT + b"5", ROOT + b"6", start_revision=revision + 1)
    assert (await watch.read()).created
    assert [event.kv.key for event in (await watch.read()).events] == [ROOT + b"5/later"]
    watch.call.cancel()


async def test_a_progress_request_is_answered_with_no_watch_id(pair: tuple[Plain, Plain, Facade]) -> None:
    _, through, facade = pair
    watch = through.watch()
    await watch.create(ROOT, END)
    assert (await watch.read()).created
    revision = await facade.admin.put(ROOT + b"1", b"x")
    assert await watch.events(1) == [(ROOT + b"1", revision)]
    await watch.progress()
    answer = await watch.read()
    assert answer.watch_id == -1
    assert not answer.events
    # never ahead of what this stream was given
    assert answer.header.revision <= revision
    watch.call.cancel()


async def test_headers_name_the_one_store_and_its_revision(pair: tuple[Plain, Plain, Facade]) -> None:
    _, through, facade = pair
    status = await facade.admin.status()
    watch = through.watch()
    await watch.create(ROOT, END)
    created = await watch.read()
    listed = await through.range(pb.RangeRequest(key=ROOT, range_end=END))
    assert created.header.cluster_id == listed.header.cluster_id == status.cluster_id
    assert created.header.revision == listed.header.revision == status.revision
    assert created.header.raft_term
    watch.call.cancel()
