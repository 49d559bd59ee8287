# SPDX-License-Identifier: Apache-2.0
"""A peer that asks for too much: what it can make us hold and do is bounded, and nobody else notices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from certs.diagnose import client_context
from certs.store import CertFiles
from kvstore.facade.grant import ClientLimits
from kvstore.facade.stream import DENIED_REASON
from kvstore.proto import rpc_pb2 as pb
from meshkit.clock import ManualClock
from tests.integration.kvstore.bare_http2 import BareClient
from tests.integration.kvstore.facade_under_test import Facade, Plain, PlainWatch, facade_for
from tests.integration.kvstore.private_etcd import Pki, eventually, needs_etcd, running_etcd

pytestmark = needs_etcd

ROOT = b"cilium/state/floods/"
END = b"cilium/state/floods0"
SMALL = ClientLimits(
    connections_per_client=3,
    streams_per_client=6,
    watches_per_client=10,
    private_watches_per_client=2,
    shared_watches_per_client=4,
    in_flight_bytes_per_client=2 << 20,
    history_bytes_total=200_000,
    stalled_s=0.5,
    progress_s=0.8,
    idle_connection_s=1.0,
)
LONG_S = 1000.0
BUSY = (grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests")


@pytest_asyncio.fixture(scope="module")
async def facade(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Facade]:
    pki = Pki()
    async with running_etcd(tmp_path_factory.mktemp("etcd"), pki) as etcd, facade_for(pki, etcd, SMALL) as running:
        for number in range(20):
            await running.admin.put(ROOT + b"%03d" % number, b"v" * 50_000)
        yield running


@pytest_asyncio.fixture(autouse=True)
async def nothing_is_left(facade: Facade) -> AsyncIterator[None]:
    yield
    await eventually(lambda: not facade.facade.connections(), "every call of the test is over")


@pytest_asyncio.fixture
async def own(facade: Facade) -> AsyncIterator[Plain]:
    """Somebody else, who must not notice."""
    plain = Plain(facade.port, facade.pki.tls("local-north"))
    yield plain
    await plain.close()


def in_flight(facade: Facade) -> int:
    return sum(info.in_flight_bytes for info in facade.facade.clients() if info.name == "remote-south")


async def watching(client: Plain, key: bytes = ROOT, end: bytes = END, **fields: object) -> PlainWatch:
    watch = client.watch()
    await watch.create(key, end, **fields)
    assert not (await watch.read()).canceled
    return watch


@pytest_asyncio.fixture
async def peers(facade: Facade) -> AsyncIterator[list[Plain]]:
    """Four connections of the peer."""
    clients = [Plain(facade.port, facade.south()) for _ in range(4)]
    yield clients
    for client in clients:
        await client.close()


@pytest_asyncio.fixture
async def bare(facade: Facade) -> AsyncIterator[BareClient]:
    """A connection of the peer that reads no answers."""
    made = facade.south()
    client = await BareClient.connect(facade.port, client_context(CertFiles(made.ca, made.cert, made.key)))
    yield client
    client.close()


async def test_a_peer_has_so_many_connections_with_calls(facade: Facade, own: Plain, peers: list[Plain]) -> None:
    watches = [await watching(client) for client in peers[:3]]
    refused = peers[3].watch()
    await refused.create(ROOT, END)
    assert await refused.status() == BUSY
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await peers[3].range(pb.RangeRequest(key=ROOT))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    limits = {info.name: (info.limit, info.refused > 0) for info in facade.facade.clients()}
    assert limits["remote-south"] == ("connections", True), "it is said who is at which limit"
    await watching(own)
    watches[0].call.cancel()
    await eventually(lambda: len(facade.facade.connections()) == 3)
    await watching(peers[3])


async def test_a_peer_has_so_many_streams_and_watches_over_all_connections(own: Plain, peers: list[Plain]) -> None:
    streams = [await watching(peers[number % 2]) for number in range(6)]
    refused = peers[0].watch()
    await refused.create(ROOT, END)
    assert await refused.status() == BUSY
    for _ in range(4):
        await streams[0].create(ROOT, END)
        assert not (await streams[0].read()).canceled
    await streams[1].create(ROOT, END)
    answer = await streams[1].read()
    assert (answer.created, answer.canceled, answer.watch_id) == (True, True, -1)
    assert "too many requests" in answer.cancel_reason
    await streams[0].cancel(0)
    assert (await streams[0].read()).canceled
    await streams[1].create(ROOT, END)
    assert not (await streams[1].read()).canceled, "a watch that ended gives its place back"
    await watching(own)


async def test_watches_of_many_ranges_do_not_take_the_shared_watches_from_others(
    facade: Facade, own: Plain, peers: list[Plain]
) -> None:
    client = peers[0]
    before = facade.facade.shared_watches()
    watch = await watching(client, ROOT + b"0")
    for number in range(1, 6):
        await watch.create(ROOT + b"%d" % number, b"", start_revision=1)
    # four shared, two of its own; the one after that is beyond what a peer may make etcd hold
    await watching(own, b"cilium/cache/floods/", b"cilium/cache/floods0")
    assert facade.facade.shared_watches() <= before + 4 + 1
    await watch.create(ROOT + b"7", b"", start_revision=1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await watch.events(1000)
    assert (caught.value.code(), caught.value.details()) == BUSY
    # shared watches that the peer left make way for its next ones at once
    for number in range(10, 16):
        ended = await watching(client, ROOT + b"%d" % number)
        ended.call.cancel()
        await eventually(
            lambda: not facade.facade.connections() or facade.facade.connections()[0].name != "remote-south"
        )
    assert facade.facade.shared_watches() <= before + 4 + 1


async def test_histories_of_shared_watches_have_one_bound(facade: Facade, peers: list[Plain]) -> None:
    client = peers[0]
    watches = [await watching(client, ROOT, ROOT + bytes((end,))) for end in (0xF0, 0xF1, 0xF2)]
    await facade.admin.put(ROOT + b"000", b"the history so far came as one message, which is kept until the next one")
    for watch in watches:
        await watch.events(1)
    for number in range(20):
        await facade.admin.put(ROOT + b"%03d" % number, b"w" * 20_000)
    for watch in watches:
        assert len(await watch.events(20)) == 20
    assert facade.facade.history_bytes() <= 200_000 + 20_100


async def test_a_peer_that_asks_and_never_reads_holds_a_bounded_amount(
    facade: Facade, own: Plain, bare: BareClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Each of 60 calls asks for 1 MB that the client's window has no room for."""
    request = pb.RangeRequest(key=ROOT, range_end=END).SerializeToString()
    for _ in range(60):
        bare.call("KV/Range", request)
    await eventually(lambda: in_flight(facade) >= 2 << 20, "its share is used up")
    began = time.monotonic()
    answer = await own.range(pb.RangeRequest(key=ROOT, range_end=END))
    assert len(answer.kvs) == 20
    assert time.monotonic() - began < 2
    assert in_flight(facade) <= (2 << 20) + 4 * 1_100_000
    caplog.clear()
    bare.close()
    await eventually(lambda: in_flight(facade) == 0, "what it held is given back")
    assert not caplog.records, "a client that leaves is no error of ours"


class HeldUpstream:
    """etcd's answers are held back until the gate opens; counts how many are asked for at once."""

    def __init__(self, facade: Facade, monkeypatch: pytest.MonkeyPatch) -> None:
        upstream = facade.facade._upstream
        self._range = upstream.range
        self.gate, self.running, self.peak = asyncio.Event(), 0, 0
        monkeypatch.setattr(upstream, "range", self.range)

    async def range(self, request: bytes, timeout_s: float) -> bytes:
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            await self.gate.wait()
            return await self._range(request, timeout_s)
        finally:
            self.running -= 1


SORTED = pb.RangeRequest(
    key=ROOT, range_end=END, limit=1, sort_order=pb.RangeRequest.DESCEND, sort_target=pb.RangeRequest.VALUE
)


@pytest.mark.parametrize(
    ("request_", "at_once"), [(pb.RangeRequest(key=ROOT + b"000"), 4), (SORTED, 1)], ids=["one key", "all, sorted"]
)
async def test_one_peer_has_etcd_answer_so_many_at_once_and_others_are_not_behind_it(
    facade: Facade,
    own: Plain,
    peers: list[Plain],
    monkeypatch: pytest.MonkeyPatch,
    request_: pb.RangeRequest,
    at_once: int,
) -> None:
    held = HeldUpstream(facade, monkeypatch)
    calls = [asyncio.ensure_future(peers[number % 3].range(request_)) for number in range(12)]
    await eventually(lambda: held.running == at_once)
    calls.append(asyncio.ensure_future(own.range(request_)))
    await eventually(lambda: held.running == at_once + 1, "somebody else's call is asked for at once")
    held.gate.set()
    await asyncio.gather(*calls)
    assert held.peak == at_once + 1


async def test_a_watcher_that_does_not_read_is_sent_away(facade: Facade, bare: BareClient) -> None:
    create = pb.WatchCreateRequest(key=ROOT, range_end=END, start_revision=1)
    bare.call("Watch/Watch", pb.WatchRequest(create_request=create).SerializeToString())
    await eventually(lambda: len(facade.facade.connections()) == 1)
    for number in range(20):
        await facade.admin.put(ROOT + b"%03d" % number, b"x" * 20_000)
    await eventually(lambda: not facade.facade.connections(), "its call is ended")
    assert in_flight(facade) == 0


async def test_a_watcher_that_reads_stays_however_little_there_is_to_tell(peers: list[Plain]) -> None:
    """Progress is told at longer intervals than a message may wait to be read."""
    watch = await watching(peers[0], progress_notify=True)
    for _ in range(3):
        answer = await watch.read()
        assert (answer.canceled, list(answer.events)) == (False, [])
    watch.call.cancel()


async def test_a_connection_without_calls_is_closed(bare: BareClient) -> None:
    await eventually(lambda: bare.is_over, "sent away after the idle time")


async def test_refused_calls_are_counted_for_the_rate_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A peer that only asks for what it may not have, and one without any grant, get as slow as everybody."""
    pki, limits = Pki(), ClientLimits(requests_per_s=50, request_burst=10)
    async with (
        running_etcd(tmp_path_factory.mktemp("etcd"), pki) as etcd,
        facade_for(pki, etcd, limits) as facade,
    ):
        for tls in (facade.south(), facade.pki.tls("nobody", facade.pki.south)):
            client = Plain(facade.port, tls)
            began = time.monotonic()

            async def refused(client: Plain, number: int) -> grpc.StatusCode:
                call = client.raw("KV/Put") if number % 2 else client.range(pb.RangeRequest(key=b"secret"))
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                return caught.value.code()

            codes = await asyncio.gather(*(refused(client, number) for number in range(40)))
            assert set(codes) == {grpc.StatusCode.PERMISSION_DENIED}
            assert time.monotonic() - began > 30 / 50 * 0.9
            await client.close()


class WatchedClock(ManualClock):
    """Says how many calls wait for their client's rate."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0

    async def sleep(self, delay_s: float) -> None:
        self.waiting += delay_s >= LONG_S
        await super().sleep(delay_s)


@pytest_asyncio.fixture
async def slow(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Facade, WatchedClock]]:
    """A facade that lets a peer begin one call in a long time, and on two connections."""
    pki, clock = Pki(), WatchedClock()
    limits = ClientLimits(requests_per_s=1 / LONG_S, request_burst=1, connections_per_client=2)
    async with (
        running_etcd(tmp_path_factory.mktemp("etcd"), pki) as etcd,
        facade_for(pki, etcd, limits, clock) as facade,
    ):
        yield facade, clock


async def waiting_watches(facade: Facade, clock: WatchedClock, count: int) -> list[PlainWatch]:
    """Of so many connections, each with its call held for the rate."""
    clients = [Plain(facade.port, facade.south()) for _ in range(count)]
    await clients[0].range(pb.RangeRequest(key=ROOT))  # takes what may be had at once
    watches = [client.watch() for client in clients]
    for watch in watches:
        await watch.create(ROOT, END)
    await eventually(lambda: clock.waiting == count)
    return watches


async def test_calls_that_waited_for_their_rate_count_for_the_connections(slow: tuple[Facade, WatchedClock]) -> None:
    facade, clock = slow
    watches = await waiting_watches(facade, clock, 5)
    clock.advance(5 * LONG_S)
    await eventually(lambda: any(info.refused == 3 for info in facade.facade.clients()))
    assert len(facade.facade.connections()) == 2
    for watch in watches:
        watch.call.cancel()


async def test_a_grant_that_is_withdrawn_while_a_call_waits_for_its_rate_is_not_used(
    slow: tuple[Facade, WatchedClock],
) -> None:
    facade, clock = slow
    (watch,) = await waiting_watches(facade, clock, 1)
    facade.revoked.add("remote-south")
    facade.facade.revoke("remote-south")
    clock.advance(LONG_S)
    answer = await watch.read()
    assert (answer.canceled, answer.cancel_reason) == (True, DENIED_REASON)
    watch.call.cancel()
