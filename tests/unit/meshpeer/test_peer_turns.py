# SPDX-License-Identifier: Apache-2.0
"""However a peer spells its records, the program that reads them does everything else meanwhile, and reads at a bounded rate."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.store import ChangeKind as Happened
from kvstore.store import Event
from meshmodel import endpointslice
from meshmodel.endpointslice import ClusterEndpointSlice, SliceEndpoint
from meshmodel.errors import RecordError
from meshmodel.keys import Kind
from meshmodel.names import ClusterId, ClusterName
from meshpeer.caps import Caps
from meshpeer.session import SessionOptions
from meshpeer.status import remote_cluster
from meshpeer.turns import COST_PER_TURN, EVENTS_PER_TURN, SLICE_FACTOR, cost_of, turns
from tests.support import record_keys
from tests.unit.meshpeer.follower_world import World

EXPORT = "services-and-endpointslices"


def slice_of(endpoints: int, node_name: str = "") -> ClusterEndpointSlice:
    return ClusterEndpointSlice(
        cluster=ClusterName("south"),
        cluster_id=ClusterId(2),
        namespace="test",
        name="echo-1",
        labels={"kubernetes.io/service-name": "echo"},
        endpoints=(SliceEndpoint(addresses=("10.2.0.9",), ready=True, node_name=node_name),) * endpoints,
    )


def put(size: int) -> Event:
    return Event(Happened.PUT, b"k", b"x" * size, 1)


@given(st.lists(st.sampled_from([0, 1, COST_PER_TURN // 3, COST_PER_TURN, COST_PER_TURN + 1]), max_size=12))
def test_everything_has_a_turn_in_its_order_and_none_costs_more_than_a_turn_may(sizes: list[int]) -> None:
    parts = list(turns([Event(Happened.PUT, str(n).encode(), bytes(size), 1) for n, size in enumerate(sizes)], len))
    assert [int(event.key) for part in parts for event in part] == list(range(len(sizes)))
    for part in parts:
        assert part
        assert len(part) == 1 or sum(len(event.value) for event in part) <= COST_PER_TURN


def test_a_turn_has_so_many_events() -> None:
    assert [len(part) for part in turns([put(1)] * (EVENTS_PER_TURN + 1), len)] == [EVENTS_PER_TURN, 1]


def test_a_slice_costs_what_its_message_is_and_not_what_it_is_compressed_to() -> None:
    cost, record = cost_of(Kind.ENDPOINT_SLICES), slice_of(5_000)
    assert len(record.encode()) < 1_000
    assert cost(record.encode()) == SLICE_FACTOR * len(record.encode_message()) > 300_000
    assert (cost(b""), cost(b"no frame")) == (0, SLICE_FACTOR * len(b"no frame"))
    assert cost_of(Kind.SERVICES)(record.encode()) == len(record.encode())


def test_a_slice_larger_than_any_api_server_takes_is_refused_unread() -> None:
    large = slice_of(9_000, "n" * 500)
    assert len(large.encode()) < 10_000
    with pytest.raises(RecordError, match="too-large"):
        endpointslice.decode("test/echo-1", large.encode(), cluster="south", cluster_id=2)


async def test_a_peer_whose_few_bytes_take_long_to_read_has_many_turns_and_is_slowed(tmp_path: Path) -> None:
    value, caps = slice_of(9_000).encode(), Caps(size_bytes=4 * COST_PER_TURN, bytes_per_s=1_000)
    world = World(tmp_path, SessionOptions(prefer_slices=True, caps=caps))
    async with world.running():
        south = await world.filled()
        await south.config(endpoint_slices_export_mode=EXPORT)
        await world.until(lambda: Kind.ENDPOINT_SLICES in world.consumer().known or world.state().is_ready, 30)
        south.store.commit({record_keys.endpointslice_key("south", "test", f"e{n}"): value for n in range(40)}, 0)
        warned = "publishes faster than is taken: endpointslice"
        await world.until(
            lambda: any(warned in text for text in remote_cluster(world.state(), world.clock.monotonic()).warnings), 30
        )
        sizes = [count for kind, count in world.consumer().applied if kind is Kind.ENDPOINT_SLICES]
        assert max(sizes) * SLICE_FACTOR * endpointslice.message_size(value) <= COST_PER_TURN
