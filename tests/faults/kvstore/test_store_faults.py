# SPDX-License-Identifier: Apache-2.0
"""A real etcd is killed, stopped, frozen, filled up and replaced while writers and readers go on."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from clustermesh_apiserver.publish.own_store import OwnStore, care_for_store
from clustermesh_apiserver.serve.access import mesh_roles
from kvstore.auth import ensure_auth
from kvstore.errors import Unavailable
from kvstore.etcd import EtcdStore
from kvstore.facade.grant import ClientLimits
from kvstore.lease import LeaseSession
from kvstore.process import EtcdProcess, EtcdSettings
from kvstore.sharedstore import SharedStore
from kvstore.upkeep import Caretaker
from meshkit.clock import ManualClock
from tests.contract.kvstore.stores_under_test import contents, reading, until_written
from tests.integration.kvstore.facade_under_test import USERS, facade_for
from tests.integration.kvstore.private_etcd import (
    FAST_ELECTIONS,
    QUICK,
    Pki,
    Relay,
    eventually,
    fill,
    needs_etcd,
    running_etcd,
)

pytestmark = needs_etcd

ROOT = b"cilium/state/faults/"
CANARY = b"cilium/synced/north/cilium/state/faults"
# a frozen server is noticed by pings; short ones here, as a test should not wait for the real 15 s
ATTENTIVE = replace(QUICK, keepalive_s=1.0, keepalive_timeout_s=0.5, call_timeout_s=1.0)


@asynccontextmanager
async def publishing(client: EtcdStore, keys: int = 500) -> AsyncIterator[SharedStore]:
    """A writer whose keys are published already."""
    session = LeaseSession(client, ttl_s=6)
    store = SharedStore(client, session, ROOT, CANARY)
    for number in range(keys):
        store.upsert(b"%04d" % number, b"v0")
    store.mark_synced()
    tasks = [asyncio.create_task(store.run()), asyncio.create_task(session.run())]
    try:
        async with asyncio.timeout(10):
            await store.synced.wait()
        yield store
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _disturb(etcd: EtcdProcess, how: str, has_noticed: Callable[[], bool]) -> None:
    match how:
        case "kill -9":
            await etcd.kill()
            await etcd.start(keep_data=True)
        case "SIGTERM":
            await etcd.stop()
            await etcd.start(keep_data=True)
        case "replaced by an empty one":
            await etcd.kill()
            await etcd.start()
        case "frozen":
            assert etcd.pid is not None
            os.kill(etcd.pid, signal.SIGSTOP)
            await eventually(has_noticed, "pings tell")
            os.kill(etcd.pid, signal.SIGCONT)


async def test_a_link_far_slower_than_the_first_pause_between_attempts_is_connected_at_once(tmp_path: Path) -> None:
    """A handshake takes its round trips: an attempt has time for it, whatever the pause before the next one would be."""
    async with running_etcd(tmp_path, Pki()) as etcd:
        relay = Relay(lambda: ("127.0.0.1", etcd.port))
        await relay.start()
        relay.delay_s = 0.15
        client = EtcdStore([f"127.0.0.1:{relay.port}"], etcd.admin_tls(), QUICK)
        try:
            assert await client.get(b"absent") is None
            assert relay.connections == 1
        finally:
            await client.close()
            await relay.stop()


@pytest.mark.parametrize("how", ["kill -9", "SIGTERM", "replaced by an empty one", "frozen"])
async def test_writer_and_reader_converge_and_nothing_flaps(tmp_path: Path, how: str) -> None:
    async with running_etcd(tmp_path, Pki()) as etcd:
        writing, watching = etcd.connect(ATTENTIVE), etcd.connect(ATTENTIVE)
        async with publishing(writing) as store, reading(watching, ROOT, canary=CANARY) as reader:
            assert len(reader.values) == 500
            disturbance = asyncio.create_task(_disturb(etcd, how, lambda: not reader.store.is_connected))
            number = 0
            while not disturbance.done():
                store.upsert(b"%04d" % (number % 500), b"during %d" % number)
                number += 1
                await asyncio.wait([disturbance], timeout=0.002)
            await disturbance
            store.upsert(b"last", b"after")
            store.delete(b"0000")
            wanted = {key: value.decode() for key, value in store.wanted.items()}
            await eventually(lambda: reader.values == wanted, "equal in the end", timeout_s=20)
            # the one delete that was meant, and no other
            deletes = [call for call in reader.heard.calls if call[0] == "delete"]
            assert [call[1] for call in deletes] == [b"0000"]
            await eventually(lambda: store.pending == 0)
            client = etcd.connect(QUICK)
            assert await contents(client, ROOT) == dict(store.wanted)
            await client.close()
        await writing.close()
        await watching.close()


@pytest.mark.parametrize("how", ["kill -9", "SIGTERM", "replaced by an empty one"])
async def test_readers_behind_the_facade_converge_too(tmp_path: Path, how: str) -> None:
    pki = Pki()
    async with running_etcd(tmp_path, pki) as etcd, facade_for(pki, etcd) as facade:
        writing = etcd.connect(ATTENTIVE)
        async with publishing(writing, 100) as store, reading(facade.client(), ROOT, canary=CANARY) as reader:
            assert len(reader.values) == 100
            before = (await facade.client().probe(CANARY)).cluster_id
            await _disturb(etcd, how, lambda: True)
            if how == "replaced by an empty one":
                fresh = etcd.connect(QUICK)
                await ensure_auth(fresh, mesh_roles("north"), USERS)
                await fresh.close()
            store.upsert(b"after", b"x")
            await eventually(lambda: reader.values.get(b"after") == "x", timeout_s=20)
            assert len(reader.values) == 101
            assert "delete" not in reader.heard.counts
            after = (await facade.client().probe(CANARY)).cluster_id
            assert (after != before) is (how == "replaced by an empty one")
        await writing.close()


async def test_a_restarted_facade_is_found_again_without_a_new_listing(tmp_path: Path) -> None:
    pki = Pki()
    async with running_etcd(tmp_path, pki) as etcd, facade_for(pki, etcd) as facade:
        await facade.admin.put(ROOT + b"a", b"1")
        async with reading(facade.client(), ROOT) as reader:
            await facade.facade.stop()
            await eventually(lambda: not reader.store.is_connected)
            await facade.admin.put(ROOT + b"b", b"2")
            assert reader.values == {b"a": "1"}
            assert await facade.facade.start("127.0.0.1", facade.port) == facade.port
            await eventually(lambda: reader.values == {b"a": "1", b"b": "2"}, timeout_s=20)
            assert reader.store.lists == 1


async def test_a_peer_is_told_when_etcd_behind_the_facade_stays_away(tmp_path: Path) -> None:
    pki = Pki()
    async with running_etcd(tmp_path, pki) as etcd, facade_for(pki, etcd, ClientLimits(outage_s=0.3)) as facade:
        await facade.admin.put(ROOT + b"a", b"1")
        async with reading(facade.client(), ROOT) as reader:
            await etcd.kill()
            await eventually(lambda: not reader.store.is_connected, "the stream is ended, not left hanging")
            assert reader.values == {b"a": "1"}
            await etcd.start(keep_data=True)
            await until_written(facade.admin, ROOT + b"b", b"2")
            await eventually(lambda: len(reader.values) == 2, timeout_s=20)


async def test_a_full_store_says_so_and_can_still_be_read(tmp_path: Path) -> None:
    settings = EtcdSettings(heartbeat_ms=20, election_ms=200, quota_bytes=2 << 20)
    async with running_etcd(tmp_path, Pki(), settings) as etcd:
        client = etcd.connect(QUICK)
        store = SharedStore(client, None, ROOT)
        task = asyncio.create_task(store.run())
        numbers = itertools.count()

        def is_full() -> bool:
            store.upsert(b"%d" % (next(numbers) % 60), os.urandom(100_000))
            return "space exceeded" in store.last_error

        await eventually(is_full)
        assert (await client.status()).alarms
        assert len(await contents(client, ROOT)) > 0, "reading goes on"
        task.cancel()
        await asyncio.wait([task])
        await client.close()


SMALL = EtcdSettings(heartbeat_ms=20, election_ms=200, quota_bytes=2 << 20)


async def test_a_store_full_of_history_is_given_room_and_disarmed(tmp_path: Path) -> None:
    async with running_etcd(tmp_path, Pki(), SMALL) as etcd:
        client = etcd.connect(QUICK)
        caretaker = Caretaker(client, etcd.quota_bytes)
        async with reading(client, ROOT) as reader:
            await fill(client, ROOT, keys=1)
            written = (await client.status()).revision
            await eventually(
                lambda: reader.store.revision >= written, "it has read all, which a busy machine takes time for"
            )
            status = await caretaker.look(now=0.0)
            assert (caretaker.problem, status.alarms) == ("", ())
            assert status.size_bytes < 1 << 20
            await client.put(ROOT + b"after", b"1")
            await eventually(lambda: reader.values.get(b"after") == "1")
            assert reader.store.lists == 1, "a reader that is up to date does not notice"
        await client.close()


async def test_a_store_full_of_records_stays_armed_until_some_are_gone(tmp_path: Path) -> None:
    async with running_etcd(tmp_path, Pki(), SMALL) as etcd:
        client = etcd.connect(QUICK)
        caretaker = Caretaker(client, etcd.quota_bytes)
        await fill(client, ROOT, keys=1000)
        assert (await caretaker.look(now=0.0)).alarms
        assert "takes no records" in caretaker.problem
        assert (await caretaker.look(now=1.0)).alarms
        assert caretaker.rooms_made == 1, "not defragmented again at once"
        await client.delete_prefix(ROOT)
        assert not (await caretaker.look(now=100.0)).alarms
        assert caretaker.problem == ""
        await client.put(ROOT + b"after", b"1")
        await client.close()


async def test_a_private_etcd_that_is_silent_is_given_up(tmp_path: Path) -> None:
    clock = ManualClock()
    async with running_etcd(tmp_path, Pki()) as etcd:
        client = etcd.connect(replace(QUICK, call_timeout_s=0.2))
        store = OwnStore(client, process=etcd, caretaker=Caretaker(client, etcd.quota_bytes))
        caring = asyncio.create_task(care_for_store(store, clock))
        try:
            await eventually(lambda: store.status is not None)
            assert not store.is_silent
            assert etcd.pid is not None
            os.kill(etcd.pid, signal.SIGSTOP)

            def is_given_up() -> bool:
                clock.advance(1.0)
                return caring.done()

            await eventually(is_given_up, timeout_s=30)
            assert isinstance(caring.exception(), Unavailable)
            assert store.is_silent
            assert "does not answer" in store.problem
        finally:
            caring.cancel()
            await asyncio.wait([caring])
            await client.close()


def test_the_fast_elections_are_only_for_tests() -> None:
    assert (EtcdSettings().heartbeat_ms, EtcdSettings().election_ms) == (100, 1000)
    assert (FAST_ELECTIONS.heartbeat_ms, FAST_ELECTIONS.election_ms) == (20, 200)
