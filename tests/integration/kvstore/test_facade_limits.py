# SPDX-License-Identifier: Apache-2.0
"""What a peer can make us spend is bounded, what it uses is shown, and it can be cut off at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from certs import profile
from certs.authority import Authority
from certs.diagnose import CertificateProblem, client_context, diagnose
from certs.store import CertFiles
from kvstore.errors import Denied, Unavailable
from kvstore.facade.grant import ClientLimits
from kvstore.facade.server import ReadOnlyFacade, ServerTls
from kvstore.proto import rpc_pb2 as pb
from tests.contract.kvstore.stores_under_test import reading
from tests.integration.kvstore.facade_under_test import Facade, Plain, PlainWatch, facade_for
from tests.integration.kvstore.private_etcd import QUICK, Pki, eventually, needs_etcd, running_etcd

pytestmark = needs_etcd

ROOT = b"cilium/state/limits/"
END = b"cilium/state/limits0"
TIGHT = ClientLimits(
    streams_per_connection=3,
    watches_per_stream=4,
    page_size=50,
    request_bytes=4096,
    ping_interval_s=0.2,
    progress_s=0.3,
)
Status = grpc.StatusCode


@pytest_asyncio.fixture(scope="module")
async def facade(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Facade]:
    pki = Pki()
    async with running_etcd(tmp_path_factory.mktemp("etcd"), pki) as etcd, facade_for(pki, etcd, TIGHT) as running:
        for start in range(0, 200, 100):
            await running.admin.apply({ROOT + b"%03d" % number: b"v" for number in range(start, start + 100)})
        yield running


@pytest_asyncio.fixture
async def client(facade: Facade) -> AsyncIterator[Plain]:
    plain = Plain(facade.port, facade.south())
    yield plain
    await plain.close()


async def _watching(client: Plain) -> PlainWatch:
    watch = client.watch()
    await watch.create(ROOT, END)
    assert (await watch.read()).created
    return watch


async def test_a_page_is_never_larger_than_the_limit_and_says_there_is_more(client: Plain) -> None:
    answer = await client.range(pb.RangeRequest(key=ROOT, range_end=END, limit=1000))
    assert (len(answer.kvs), answer.more, answer.count) == (50, True, 200)


async def test_our_client_lists_everything_in_the_pages_it_is_given(facade: Facade) -> None:
    pages = [page async for page in facade.client().list(ROOT)]
    assert [len(page.entries) for page in pages] == [50, 50, 50, 50]


async def test_one_connection_has_so_many_streams(client: Plain) -> None:
    watches = [await _watching(client) for _ in range(3)]
    refused = client.watch()
    await refused.create(ROOT, END)
    code, text = await refused.status()
    assert (code, text) == (Status.RESOURCE_EXHAUSTED, "etcdserver: too many requests")
    watches[0].call.cancel()

    async def has_room() -> bool:
        watch = client.watch()
        await watch.create(ROOT, END)
        try:
            return (await watch.read()).created
        except grpc.aio.AioRpcError:
            return False

    for _ in range(100):
        if await has_room():
            return
    raise AssertionError("a stream that ended gives its place back")


async def test_one_stream_has_so_many_watches(client: Plain) -> None:
    watch = client.watch()
    for _ in range(4):
        await watch.create(ROOT, END)
        assert not (await watch.read()).canceled
    await watch.create(ROOT, END)
    answer = await watch.read()
    assert (answer.created, answer.canceled, answer.watch_id) == (True, True, -1)
    await watch.cancel(2)
    assert (await watch.read()).canceled
    await watch.create(ROOT, END)
    assert not (await watch.read()).canceled


async def test_an_oversized_request_is_refused(client: Plain) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.range(pb.RangeRequest(key=ROOT + b"x" * 10_000))
    assert caught.value.code() is Status.RESOURCE_EXHAUSTED


async def test_nonsense_instead_of_a_request_is_refused(client: Plain) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.raw("KV/Range", b"\xff\xff\xff")
    assert caught.value.code() is Status.INTERNAL
    call = client.channel.stream_stream("/etcdserverpb.Watch/Watch")()
    await call.write(b"\xff\xff\xff")
    assert await call.code() is Status.INTERNAL


async def test_sessions_show_who_since_when_and_how_much(facade: Facade, client: Plain) -> None:
    before = time.time()
    await _watching(client)
    await facade.admin.put(ROOT + b"000", b"x" * 1000)
    await eventually(lambda: any(info.bytes_sent > 1000 for info in facade.facade.connections()))
    (info,) = facade.facade.connections()
    assert (info.name, info.common_name, info.streams, info.watches) == ("remote-south", "remote-south", 1, 1)
    assert before - 1 <= info.since_s <= time.time()
    assert "127.0.0.1" in info.address


async def test_revoking_ends_open_streams_at_once_and_keeps_others(facade: Facade, client: Plain) -> None:
    local = Plain(facade.port, facade.pki.tls("local-north"))
    peers, own = await _watching(client), await _watching(local)
    facade.revoked.add("remote-south")
    try:
        began = time.monotonic()
        assert facade.facade.revoke("remote-south") == 1
        assert await peers.status() == (Status.PERMISSION_DENIED, "etcdserver: permission denied")
        assert time.monotonic() - began < 1
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.range(pb.RangeRequest(key=ROOT + b"000"))
        assert caught.value.code() is Status.PERMISSION_DENIED
        revision = await facade.admin.put(ROOT + b"000", b"secret from now on")
        assert await own.events(1) == [(ROOT + b"000", revision)]
    finally:
        facade.revoked.clear()
        facade.facade.reauthorize()
        await local.close()
    assert (await client.range(pb.RangeRequest(key=ROOT + b"000"))).count == 1


async def test_revoking_ends_a_client_that_does_not_read(facade: Facade, client: Plain) -> None:
    await _watching(client)
    for number in range(30):
        await facade.admin.put(ROOT + b"%03d" % number, b"x" * 500_000)
    assert facade.facade.revoke("remote-south") == 1
    await eventually(lambda: not facade.facade.connections(), "its stream is gone on our side")
    for number in range(30):
        await facade.admin.put(ROOT + b"%03d" % number, b"v")


async def test_a_change_of_users_ends_only_those_it_concerns(facade: Facade, client: Plain) -> None:
    local = Plain(facade.port, facade.pki.tls("local-north"))
    peers, own = await _watching(client), await _watching(local)
    facade.bundle.forget("south")
    try:
        assert facade.facade.reauthorize() == 1
        assert (await peers.status())[0] is Status.PERMISSION_DENIED
        assert facade.facade.reauthorize() == 0
        revision = await facade.admin.put(ROOT + b"001", b"x")
        assert await own.events(1) == [(ROOT + b"001", revision)]
    finally:
        facade.bundle.set_authority("south", facade.pki.south.certificate_pem)
        facade.facade.reauthorize()
        await local.close()


async def test_a_denied_reader_is_told(facade: Facade) -> None:
    async with reading(facade.client(), b"cilium/state", wait=False) as reader:
        done, _ = await asyncio.wait([reader.task], timeout=5)
        assert done
        assert isinstance(reader.task.exception(), Denied)


async def test_new_certificates_serve_the_next_handshake_and_keep_open_streams(facade: Facade, client: Plain) -> None:
    watch = await _watching(client)
    files = _files(facade)
    before = (await diagnose("127.0.0.1", facade.port, "north.mesh.cilium.io", files)).server
    renewed = facade.pki.north.issue(profile.server("north", "kube-system"), time.time())
    newcomer = Pki().south
    facade.bundle.set_authority("west", newcomer.certificate_pem)
    facade.facade.reload_tls(ServerTls(facade.bundle.union_pem, renewed.cert_pem, renewed.key_pem))
    after = await diagnose("127.0.0.1", facade.port, "north.mesh.cilium.io", files)
    assert after.is_ok
    assert before is not None
    assert after.server is not None
    assert after.server.serial != before.serial
    # the new authority is accepted at the door, and has no grant
    west = Plain(facade.port, facade.pki.tls("remote-west", newcomer))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await west.range(pb.RangeRequest(key=ROOT))
    assert caught.value.code() is Status.PERMISSION_DENIED
    await west.close()
    revision = await facade.admin.put(ROOT + b"002", b"x")
    assert await watch.events(1) == [(ROOT + b"002", revision)]
    # an authority that is taken away is not accepted any more
    facade.bundle.forget("west")
    facade.facade.reload_tls(facade.server_tls())
    finding = await diagnose("127.0.0.1", facade.port, "north.mesh.cilium.io", _files(facade, "remote-west", newcomer))
    assert finding.problem is CertificateProblem.CLIENT_REJECTED


def _files(facade: Facade, name: str = "remote-south", authority: Authority | None = None) -> CertFiles:
    made = facade.pki.tls(name, authority or facade.pki.south)
    return CertFiles(made.ca, made.cert, made.key)


async def test_progress_is_told_to_idle_watches_that_asked_and_is_never_ahead(facade: Facade, client: Plain) -> None:
    watch = client.watch()
    revision = await facade.admin.put(ROOT + b"003", b"x")
    await watch.create(ROOT, END, progress_notify=True, start_revision=revision)
    assert await watch.events(1) == [(ROOT + b"003", revision)]
    answer = await watch.read()
    assert not answer.events
    assert answer.header.revision == revision
    again = await facade.admin.put(ROOT + b"003", b"y")
    assert (await watch.events(1))[0][1] == again


HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
PING = b"\0\0\x08\x06\0\0\0\0\0"
GOAWAY, PING_TYPE = 7, 6


@pytest.mark.parametrize(("interval_s", "is_welcome"), [(0.25, True), (0.01, False)])
async def test_pings_are_welcome_as_often_as_etcd_allows_them(
    facade: Facade, interval_s: float, *, is_welcome: bool
) -> None:
    """Cilium pings every 15 s; with gRPC's own default of 300 s such a client would be sent away."""
    context = client_context(_files(facade))
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", facade.port, ssl=context, server_hostname="north.mesh.cilium.io"
    )
    writer.write(HTTP2_PREFACE + SETTINGS)
    seen: list[int] = []

    async def frames() -> None:
        while True:
            head = await reader.readexactly(9)
            await reader.readexactly(int.from_bytes(head[:3], "big"))
            seen.append(head[3])

    task = asyncio.create_task(frames())
    try:
        for number in range(8):
            writer.write(PING + number.to_bytes(8, "big"))
            await asyncio.wait([task], timeout=interval_s)
        await asyncio.wait([task], timeout=0.3)
    finally:
        task.cancel()
        await asyncio.wait([task])
        writer.transport.abort()
    assert (GOAWAY not in seen) is is_welcome
    if is_welcome:
        assert seen.count(PING_TYPE) >= 8


async def test_two_servers_never_share_a_port(facade: Facade) -> None:
    other = ReadOnlyFacade(facade.admin, lambda _: None, facade.server_tls())
    with pytest.raises(Unavailable):
        await other.start("127.0.0.1", facade.port)


async def test_a_reader_with_small_options_is_served_too(facade: Facade) -> None:
    client = facade.client(options=replace(QUICK, page_size=7))
    assert sum([len(page.entries) async for page in client.list(ROOT)]) == 200
