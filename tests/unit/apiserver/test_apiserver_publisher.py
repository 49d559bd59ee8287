# SPDX-License-Identifier: Apache-2.0
"""What stands in the store: config first, canaries last, heartbeat always, everything again after a loss."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from clustermesh_apiserver.publish.publisher import Publisher
from kvstore.lease import KEYS_PER_LEASE
from kvstore.memory import MemoryStore
from kvstore.readback import SOONEST_S
from meshkit.clock import ManualClock, settle
from meshmodel.keys import Kind
from meshmodel.names import ClusterName
from tests.unit.apiserver.apiserver_wait import until

CONFIG_KEY = b"cilium/cluster-config/blue"
KINDS = (Kind.NODES, Kind.IDENTITIES, Kind.IPS, Kind.SERVICES, Kind.SERVICE_EXPORTS)
CANARIES = {
    b"cilium/synced/blue/cilium/state/nodes/v1",
    b"cilium/synced/blue/cilium/state/identities/v1",
    b"cilium/synced/blue/cilium/state/ip/v1",
    b"cilium/synced/blue/cilium/state/services/v1",
    b"cilium/synced/blue/cilium/state/serviceexports/v1",
}


@contextlib.asynccontextmanager
async def publisher(store: MemoryStore, clock: ManualClock | None = None) -> AsyncIterator[Publisher]:
    made = Publisher(store, ClusterName("blue"), b"{config}", KINDS, clock=clock)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def keys_of(store: MemoryStore, prefix: bytes) -> set[bytes]:
    return {key for key in store.server.entries if key.startswith(prefix)}


def value_of(store: MemoryStore, key: bytes) -> bytes | None:
    entry = store.server.entries.get(key)
    return entry.value if entry is not None else None


async def test_the_config_is_the_first_key_and_the_heartbeat_does_not_wait_a_minute() -> None:
    store = MemoryStore()
    async with publisher(store):
        await until(lambda: b"cilium/.heartbeat" in store.server.entries)
        revisions = {key: entry.revision for key, entry in store.server.entries.items()}
        assert min(revisions, key=lambda key: revisions[key]) == CONFIG_KEY
        assert not keys_of(store, b"cilium/synced/")


async def test_every_kind_gets_its_canary_also_an_empty_one_and_not_before_its_records() -> None:
    """T7: the names are irregular."""
    store = MemoryStore()
    async with publisher(store) as made:
        made.stores[Kind.IPS].upsert(b"10.0.0.1", b"{}")
        for kind in KINDS[:-1]:
            made.stores[kind].mark_synced()
        await until(lambda: len(keys_of(store, b"cilium/synced/")) == 4)
        assert not made.is_synced
        made.stores[Kind.SERVICE_EXPORTS].mark_synced()
        await until(lambda: made.is_synced)
        assert keys_of(store, b"cilium/synced/") == CANARIES
        entries = store.server.entries
        record, canary = b"cilium/state/ip/v1/default/10.0.0.1", b"cilium/synced/blue/cilium/state/ip/v1"
        assert entries[record].revision < entries[canary].revision
        assert all(entry.lease for entry in entries.values())


async def test_unchanged_bytes_are_not_written_again() -> None:
    """T18, first half."""
    store = MemoryStore()
    async with publisher(store) as made:
        nodes = made.stores[Kind.NODES]
        nodes.upsert(b"n1", b"{1}")
        await until(lambda: value_of(store, b"cilium/state/nodes/v1/blue/n1") == b"{1}")
        revision = store.server.entries[b"cilium/state/nodes/v1/blue/n1"].revision
        nodes.upsert(b"n1", b"{1}")
        nodes.upsert(b"n2", b"{2}")
        await until(lambda: value_of(store, b"cilium/state/nodes/v1/blue/n2") == b"{2}")
        assert store.server.entries[b"cilium/state/nodes/v1/blue/n1"].revision == revision


async def test_after_a_lost_lease_every_key_and_canary_is_there_again() -> None:
    """T18, second half."""
    store = MemoryStore()
    async with publisher(store) as made:
        for kind in KINDS:
            made.stores[kind].upsert(b"x", b"{}")
            made.stores[kind].mark_synced()
        await until(lambda: made.is_synced)
        expected = set(store.server.entries)
        for lease in made.session.leases:
            await store.revoke(lease)
        assert not keys_of(store, b"cilium/")
        for lease in made.session.leases:
            made.session.report_lost(lease)
        await until(lambda: set(store.server.entries) == expected)


async def test_more_keys_than_a_lease_takes_hang_on_several() -> None:
    """T19."""
    store = MemoryStore()
    async with publisher(store) as made:
        for index in range(2 * KEYS_PER_LEASE + 5):
            made.stores[Kind.IPS].upsert(f"10.0.{index // 250}.{index % 250}".encode(), b"{}")
        made.stores[Kind.IPS].mark_synced()
        await until(made.stores[Kind.IPS].synced.is_set)
        per_lease: dict[int, int] = {}
        for entry in store.server.entries.values():
            per_lease[entry.lease] = per_lease.get(entry.lease, 0) + 1
        assert len(per_lease) == 3
        assert max(per_lease.values()) <= KEYS_PER_LEASE


async def test_a_config_changed_or_deleted_by_somebody_else_is_written_again_with_a_lease() -> None:
    store = MemoryStore()
    other = MemoryStore(store.server)
    async with publisher(store):
        await until(lambda: value_of(store, CONFIG_KEY) == b"{config}")
        await until(lambda: len(store.server.entries) == 2)
        await other.put(CONFIG_KEY, b"{foreign}")
        await until(lambda: value_of(store, CONFIG_KEY) == b"{config}")
        assert store.server.entries[CONFIG_KEY].lease
        await other.apply({CONFIG_KEY: None})
        await until(lambda: value_of(store, CONFIG_KEY) == b"{config}")
        await other.put(b"cilium/cluster-config/blueberry", b"{theirs}")
        await settle(100)
        assert value_of(store, b"cilium/cluster-config/blueberry") == b"{theirs}"


async def test_stopping_removes_nothing() -> None:
    """T26 on the writer's side."""
    store = MemoryStore()
    async with publisher(store) as made:
        made.stores[Kind.NODES].upsert(b"n1", b"{}")
        for kind in KINDS:
            made.stores[kind].mark_synced()
        await until(lambda: made.is_synced)
        before = dict(store.server.entries)
    assert store.server.entries == before


async def test_a_replaced_store_is_filled_again() -> None:
    store = MemoryStore()
    async with publisher(store) as made:
        made.stores[Kind.NODES].upsert(b"n1", b"{}")
        for kind in KINDS:
            made.stores[kind].mark_synced()
        await until(lambda: made.is_synced)
        expected = set(store.server.entries)
        await store.delete_prefix(b"cilium/")
        made.store_changed()
        await until(lambda: set(store.server.entries) == expected)


async def test_records_changed_behind_our_back_are_repaired_within_seconds() -> None:
    store, clock = MemoryStore(), ManualClock()
    async with publisher(store, clock) as made:
        made.stores[Kind.IPS].upsert(b"10.0.0.1", b"{1}")
        made.stores[Kind.IPS].upsert(b"10.0.0.2", b"{2}")
        for kind in KINDS:
            made.stores[kind].mark_synced()
        await until(lambda: made.is_synced)
        first, second = b"cilium/state/ip/v1/default/10.0.0.1", b"cilium/state/ip/v1/default/10.0.0.2"
        canary = b"cilium/synced/blue/cilium/state/nodes/v1"
        store.server.commit({first: None, second: b"{lie}", canary: None}, 0)
        clock.advance(SOONEST_S)
        await until(lambda: value_of(store, first) == b"{1}" and value_of(store, second) == b"{2}")
        await until(lambda: canary in store.server.entries)
        assert made.stores[Kind.IPS].repaired == 2


async def test_records_of_two_kinds_that_change_together_are_seen_together() -> None:
    store = MemoryStore()
    async with publisher(store) as made:
        for value in (b"old", b"new"):
            made.stores[Kind.SERVICES].upsert(b"shop/web", value)
            made.stores[Kind.SERVICE_EXPORTS].upsert(b"shop/web", value)
            await until(
                lambda: not made.stores[Kind.SERVICES].pending and not made.stores[Kind.SERVICE_EXPORTS].pending
            )
            written = [entry for key, entry in store.server.entries.items() if key.endswith(b"/shop/web")]
            assert {entry.value for entry in written} == {value}
            assert len({entry.revision for entry in written}) == 1
