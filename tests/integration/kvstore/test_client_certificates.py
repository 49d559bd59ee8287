# SPDX-License-Identifier: Apache-2.0
"""A client whose certificate files are renewed goes on with them, and what stands is not ended for it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from certs import profile
from certs.authority import Authority
from certs.inspect import parse
from kvstore.clientconfig import parse_client_config
from kvstore.errors import Unavailable
from kvstore.etcd import EtcdStore
from kvstore.facade.server import ReadOnlyFacade, ServerTls
from kvstore.proto import rpc_pb2 as pb
from kvstore.store import Phase
from meshpeer.connection import StoreConnector
from tests.contract.kvstore.stores_under_test import reading
from tests.integration.kvstore.facade_under_test import Facade, Plain
from tests.integration.kvstore.private_etcd import QUICK, eventually, needs_etcd

pytestmark = needs_etcd

ROOT = b"cilium/state/renewal/"
SHORT_S = 2.0


def write_files(directory: Path, facade: Facade, authority: Authority, life_s: float) -> None:
    shape = profile.Profile("remote-south", days=life_s / profile.DAY_S)
    made = authority.issue(shape, time.time())
    for name, content in (
        ("ca.crt", facade.pki.north.certificate_pem),
        ("tls.crt", made.cert_pem),
        ("tls.key", made.key_pem),
    ):
        (directory / name).write_bytes(content)


def connect(directory: Path, facade: Facade) -> EtcdStore:
    host = "north.mesh.cilium.io"
    document = {
        "endpoints": [f"https://{host}:{facade.port}"],
        "trusted-ca-file": "ca.crt",
        "cert-file": "tls.crt",
        "key-file": "tls.key",
        "cilium-host-aliases": [{"hostname": host, "ips": ["127.0.0.1"]}],
    }
    return parse_client_config(json.dumps(document).encode(), directory).connect(QUICK)


@pytest_asyncio.fixture
async def store(facade: Facade, tmp_path: Path) -> AsyncIterator[EtcdStore]:
    write_files(tmp_path, facade, facade.pki.south, SHORT_S)
    client = connect(tmp_path, facade)
    yield client
    await client.close()


async def restart(facade: Facade) -> None:
    """Every connection is broken."""
    await facade.facade.stop()
    facade.facade = ReadOnlyFacade(facade.admin, facade.authorize, facade.server_tls(), admits=facade.admits)
    assert await facade.facade.start("127.0.0.1", facade.port) == facade.port


async def wait_until_ended(since_s: float) -> None:
    await eventually(lambda: time.time() > since_s + SHORT_S + 1.1, "the first certificate has ended")


async def test_a_stream_outlives_the_certificate_it_was_opened_with(facade: Facade, store: EtcdStore) -> None:
    since_s = time.time()
    async with reading(store, ROOT) as reader:
        await wait_until_ended(since_s)
        await facade.admin.put(ROOT + b"a", b"1")
        await eventually(lambda: b"a" in reader.values)


async def test_a_broken_stream_goes_on_with_the_renewed_certificate(
    facade: Facade, store: EtcdStore, tmp_path: Path
) -> None:
    since_s = time.time()
    async with reading(store, ROOT) as reader:
        await wait_until_ended(since_s)
        write_files(tmp_path, facade, facade.pki.south, 600.0)
        await restart(facade)
        await facade.admin.put(ROOT + b"b", b"1")
        await eventually(lambda: b"b" in reader.values)
    # single calls use the new connection too
    assert await store.get(ROOT + b"b") is not None


async def test_a_replaced_authority_ends_no_reader_that_has_its_new_certificate(facade: Facade, tmp_path: Path) -> None:
    """It goes on where it was, without listing again; nobody reads on the old certificate, not even on its open connection."""
    old = facade.pki.south
    write_files(tmp_path, facade, old, 600.0)
    standing, phases, seen = connect(tmp_path, facade), list[Phase](), set[bytes]()
    new = Authority.create("mesh CA", time.time(), 30)

    async def read() -> None:
        async for batch in standing.list_and_watch(ROOT):
            phases.append(batch.phase)
            seen.update(event.key for event in batch.events)

    reader = asyncio.create_task(read())
    stolen = Plain(facade.port, facade.pki.tls("remote-south", old))
    watch = stolen.watch()
    try:
        await watch.create(ROOT, b"cilium/state/renewal0")
        assert (await watch.read()).created
        await eventually(lambda: Phase.LISTED in phases and phases[-1] is Phase.CHANGES, "the reader's watch stands")
        facade.bundle.set_authority("south", old.certificate_pem + new.certificate_pem)
        facade.facade.reload_tls(facade.server_tls())
        write_files(tmp_path, facade, new, 600.0)
        facade.bundle.set_authority("south", new.certificate_pem)
        facade.facade.reload_tls(facade.server_tls())
        assert (await watch.status())[0] is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stolen.range(pb.RangeRequest(key=ROOT))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        await facade.admin.put(ROOT + b"d", b"1")
        await eventually(lambda: ROOT + b"d" in seen)
        assert (phases.count(Phase.LISTING), reader.done()) == (1, False)
    finally:
        reader.cancel()
        await asyncio.wait([reader])
        await stolen.close()
        await standing.close()
        facade.bundle.set_authority("south", old.certificate_pem)
        facade.facade.reload_tls(facade.server_tls())


async def test_a_certificate_that_ended_and_was_not_renewed_connects_nowhere(facade: Facade, store: EtcdStore) -> None:
    await wait_until_ended(time.time())
    with pytest.raises(Unavailable):
        await store.get(ROOT + b"b")


async def test_files_that_cannot_be_read_for_a_moment_end_nothing(
    facade: Facade, store: EtcdStore, tmp_path: Path
) -> None:
    write_files(tmp_path, facade, facade.pki.south, 600.0)
    store = connect(tmp_path, facade)
    async with reading(store, ROOT) as reader:
        (tmp_path / "tls.crt").unlink()
        await restart(facade)
        await facade.admin.put(ROOT + b"c", b"1")
        await eventually(lambda: b"c" in reader.values)
    await store.close()


@pytest.mark.runbook("certificate-refused")
async def test_the_reason_why_nobody_connects_is_named_with_its_date(facade: Facade, tmp_path: Path) -> None:
    host = "north.mesh.cilium.io"
    explain = StoreConnector(tmp_path).explain
    content = json.dumps(
        {
            "endpoints": [f"https://{host}:{facade.port}"],
            "trusted-ca-file": "ca.crt",
            "cert-file": "tls.crt",
            "key-file": "tls.key",
            "cilium-host-aliases": [{"hostname": host, "ips": ["127.0.0.1"]}],
        }
    ).encode()
    write_files(tmp_path, facade, facade.pki.south, 600.0)
    assert await explain(content) == ""
    shown = parse(facade.server_tls().cert, "server certificate")[0]
    assert await StoreConnector(tmp_path).certificate_end(content) == shown.not_after_s

    past = Authority.create("mesh CA", time.time() - profile.DAY_S, 30)
    write_files(tmp_path, facade, past, 600.0)
    assert (await explain(content)).startswith("client-rejected: ")

    (tmp_path / "ca.crt").write_bytes(past.certificate_pem)
    assert (await explain(content)).startswith("unknown-ca: ")

    ended = past.issue(profile.Profile("remote-south", days=0.1), time.time() - profile.DAY_S / 2)
    (tmp_path / "tls.crt").write_bytes(ended.cert_pem)
    (tmp_path / "tls.key").write_bytes(ended.key_pem)
    found = await explain(content)
    assert found.startswith("our certificate remote-south expired on ")
    assert found.endswith(": run clustermesh certs rotate in this cluster")

    write_files(tmp_path, facade, facade.pki.south, 600.0)
    shape = replace(profile.server("north", "kube-system"), days=1 / profile.DAY_S)
    short = facade.pki.north.issue(shape, time.time())
    facade.facade.reload_tls(ServerTls(facade.bundle.union_pem, short.cert_pem, short.key_pem))
    try:
        since_s = time.time()
        await eventually(lambda: time.time() > since_s + 2.1, "the server's certificate has ended")
        found = await explain(content)
        assert found.startswith("the server's certificate expired on ")
        assert found.endswith(": run clustermesh certs rotate there")
    finally:
        facade.facade.reload_tls(facade.server_tls())
