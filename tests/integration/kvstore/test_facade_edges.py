# SPDX-License-Identifier: Apache-2.0
"""No method and no field of a request reaches past a grant: the same edges for every way to ask."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from kvstore.proto import rpc_pb2 as pb
from tests.integration.kvstore.facade_under_test import Facade, Plain
from tests.integration.kvstore.private_etcd import needs_etcd
from tests.unit.kvstore.test_facade_grant import EDGES

pytestmark = needs_etcd

INSIDE = [
    b"cilium/state/a",
    b"cilium/state/ip/1",
    b"cilium/state/\xff\xff",
    b"cilium/synced/north/x",
    b"cilium/cluster-config/north",
]
OUTSIDE = [
    b"a",
    b"cilium/state",
    b"cilium/state0",
    b"cilium/state0\0",
    b"cilium/statez",
    b"cilium/cache/x",
    b"cilium/cluster-config/north\0",
    b"cilium/cluster-config/northern",
    b"cilium/cluster-config/south",
    b"cilium/synced/northern/x",
    b"cilium/synced/south/x",
    b"clustermesh/private/ip/v1/default/10.0.0.1",
    b"\xff\xff",
]

RANGES: dict[str, dict[str, object]] = {
    "plain": {},
    "keys only": {"keys_only": True},
    "count only": {"count_only": True},
    "limited": {"limit": 1},
    "descending": {"sort_order": pb.RangeRequest.DESCEND, "sort_target": pb.RangeRequest.KEY},
    "by value, limited": {"sort_order": pb.RangeRequest.ASCEND, "sort_target": pb.RangeRequest.VALUE, "limit": 1},
    "serializable": {"serializable": True},
    "changed since": {"min_mod_revision": 1},
    "compacted revision": {"revision": 1},
    "future revision": {"revision": 1 << 40},
}
WATCHES: dict[str, dict[str, object]] = {
    "plain": {},
    "from the start": {"start_revision": 1},
    "from the future": {"start_revision": 1 << 40},
    "without puts": {"filters": [pb.WatchCreateRequest.NOPUT]},
    "without deletes": {"filters": [pb.WatchCreateRequest.NODELETE]},
    "with previous values": {"prev_kv": True},
    "with progress": {"progress_notify": True},
    "in fragments": {"fragment": True},
    "own id": {"watch_id": 7},
}


@pytest_asyncio.fixture
async def client(facade: Facade) -> AsyncIterator[Plain]:
    for key in INSIDE + OUTSIDE:
        await facade.admin.put(key, b"value of " + key)
    revision = (await facade.admin.status()).revision
    await facade.admin.call(facade.admin.methods.compact, pb.CompactionRequest(revision=revision, physical=True))
    plain = Plain(facade.port, facade.south())
    yield plain
    await plain.close()


@pytest.mark.parametrize("way", RANGES)
async def test_a_range_beyond_any_edge_is_refused_however_it_is_asked(client: Plain, way: str) -> None:
    for key, end, covered in EDGES:
        request = pb.RangeRequest(key=key, range_end=end, **RANGES[way])  # type: ignore[arg-type]
        code, keys = await _ask(client, request)
        if covered:
            expected = grpc.StatusCode.OUT_OF_RANGE if RANGES[way].get("revision") else grpc.StatusCode.OK
        else:
            expected = grpc.StatusCode.PERMISSION_DENIED if key else grpc.StatusCode.INVALID_ARGUMENT
        assert code is expected, (key, end)
        assert not keys & set(OUTSIDE), (key, end)


async def _ask(client: Plain, request: pb.RangeRequest) -> tuple[grpc.StatusCode, set[bytes]]:
    try:
        return grpc.StatusCode.OK, {kv.key for kv in (await client.range(request)).kvs}
    except grpc.aio.AioRpcError as exc:
        return exc.code(), set()


@pytest.mark.parametrize("way", WATCHES)
async def test_a_watch_beyond_any_edge_is_refused_and_the_others_go_on(facade: Facade, client: Plain, way: str) -> None:
    watch, seen = client.watch(), set[bytes]()
    revision = (await facade.admin.status()).revision
    await watch.create(b"cilium/state/", b"cilium/state0", start_revision=revision + 1)
    witness = (await watch.read()).watch_id
    for key, end, covered in EDGES:
        if covered:
            continue
        await watch.create(key, end, **WATCHES[way])
        answer = await watch.read()
        assert (answer.created, answer.canceled, answer.watch_id) == (True, True, -1), (key, end)
        assert "permission denied" in answer.cancel_reason
        assert not answer.events
    for key in OUTSIDE:
        await facade.admin.apply({key: b"changed"})
        await facade.admin.apply({key: None})
    last = await facade.admin.put(b"cilium/state/a", b"last")
    while True:
        answer = await watch.read()
        assert answer.watch_id == witness
        seen |= {event.kv.key for event in answer.events}
        if any(event.kv.mod_revision == last for event in answer.events):
            break
    assert not seen & set(OUTSIDE)
    watch.call.cancel()


async def test_a_granted_watch_gives_every_key_below_and_none_beside(facade: Facade, client: Plain) -> None:
    """All covered edges as watches of one stream, and one write to every key: each watch gives exactly its keys."""
    watch, ranges = client.watch(), dict[int, tuple[bytes, bytes]]()
    revision = (await facade.admin.status()).revision
    for key, end, covered in EDGES:
        if covered:
            await watch.create(key, end, start_revision=revision + 1)
            ranges[(await watch.read()).watch_id] = (key, end)
    await facade.admin.apply(dict.fromkeys(INSIDE + OUTSIDE, b"again"))
    wanted = {
        watch_id: {other for other in INSIDE if (key <= other < end if end else other == key)}
        for watch_id, (key, end) in ranges.items()
    }
    seen: dict[int, set[bytes]] = {}
    while sum(len(keys) for keys in seen.values()) < sum(len(keys) for keys in wanted.values()):
        answer = await watch.read()
        seen.setdefault(answer.watch_id, set()).update(event.kv.key for event in answer.events)
    assert seen == {watch_id: keys for watch_id, keys in wanted.items() if keys}
    watch.call.cancel()
