# SPDX-License-Identifier: Apache-2.0
"""A peer that publishes without bound costs within bounds, says so, and harms nobody else."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import pytest

from kvstore.store import ChangeKind as Happened
from kvstore.store import Event
from meshmodel.keys import Kind
from meshpeer import session as session_module
from meshpeer.caps import RECORDS, UNLIMITED, Budget, Caps, Pool
from meshpeer.record_views import RecordViews, View
from meshpeer.session import SessionOptions
from meshpeer.status import remote_cluster
from tests.support import record_keys
from tests.unit.meshpeer.follower_world import World, turns
from tests.unit.meshpeer.peer_store import PeerStore


def put(key: str, size: int = 10, fill: bytes = b"x") -> Event:
    return Event(Happened.PUT, key.encode(), fill * size, 1)


def drop(key: str) -> Event:
    return Event(Happened.DELETE, key.encode(), b"", 1)


def only(kind: Kind, maximum: int) -> Mapping[Kind, int]:
    return {**RECORDS, kind: maximum}


def test_records_beyond_the_maximum_are_not_known_and_named() -> None:
    view = View(2)
    assert [key for key, _ in view.feed([put("a"), put("b"), put("c"), put("a", 11)], 0)] == [b"a", b"b", b"a"]
    assert (len(view), view.dropped.total, view.dropped.first, view.dropped.limit) == (2, 1, ["c"], "2 records")
    assert view.feed([drop("c")], 0) == []
    assert view.feed([drop("a"), put("d")], 0) == [(b"a", None), (b"d", b"x" * 10)]


def test_bytes_beyond_the_budget_are_not_known_and_what_grew_beyond_it_is_gone() -> None:
    budget = Budget(40)
    view = View(budget=budget)
    assert len(view.feed([put("a", 19), put("b", 19)], 0)) == 2
    assert budget.used == 40
    assert view.feed([put("c", 1)], 0) == []
    assert view.feed([put("a", 20)], 0) == [(b"a", None)]
    assert budget.used == 20
    assert view.feed([put("c", 19)], 0) == [(b"c", b"x" * 19)]
    assert view.feed([drop("b")], 0) == [(b"b", None)]
    assert (budget.used, view.dropped.total, view.dropped.limit) == (20, 2, "40 bytes")


def test_a_smaller_value_always_fits() -> None:
    budget = Budget(40)
    view = View(budget=budget)
    view.feed([put("a", 39)], 0)
    budget.limit = 10
    assert view.feed([put("a", 30)], 0) == [(b"a", b"x" * 30)]
    assert budget.used == 31


def test_doubt_and_sweep_keep_the_account_right() -> None:
    budget = Budget(1000)
    view = View(budget=budget)
    view.feed([put("a", 19), put("b", 29)], 0)
    view.doubt()
    view.begin_listing()
    assert view.feed([put("a", 19)], 0) == [(b"a", b"x" * 19)]
    assert budget.used == 50
    assert view.take_gone(5) == [(b"b", None)]
    assert budget.used == 20
    view.release()
    assert budget.used == 0


def test_the_bytes_of_all_peers_count_together() -> None:
    total = Pool(50)
    south, east = (RecordViews(Caps(size_bytes=40), total) for _ in range(2))
    assert len(south.part(Kind.IPS).feed([put("a", 29)], 0)) == 1
    assert east.part(Kind.IPS).feed([put("a", 29)], 0) == []
    dropped = east.truncations()["ip"]
    assert (dropped.total, dropped.limit) == (1, "50 bytes of all peers")
    south.keep(())
    assert east.due() == (Kind.IPS,)
    assert len(east.part(Kind.IPS).feed([put("a", 29)], 0)) == 1
    assert south.part(Kind.IPS).feed([put("a", 29)], 0) == []


def test_every_peer_has_an_equal_part_of_half_whatever_the_others_use() -> None:
    total = Pool(800)
    liars = [RecordViews(Caps(size_bytes=500), total) for _ in range(3)]
    for number in range(80):
        for liar in liars:
            liar.part(Kind.IPS).feed([put(f"{number:03}", 7)], 0)
    honest = RecordViews(Caps(size_bytes=500), total)
    taken = [honest.part(Kind.IPS).feed([put(f"{number:03}", 7)], 0) for number in range(20)]
    assert sum(map(len, taken)) == 10, "a quarter of 400, though the others have used 800"
    assert sum(liar.count(Kind.IPS) for liar in liars) == 80
    liars[0].leave()
    assert honest.due() == (Kind.IPS,)
    taken = [honest.part(Kind.IPS).feed([put(f"{number:03}", 7)], 0) for number in range(10, 20)]
    assert sum(map(len, taken)) == 10


def test_a_new_listing_is_due_when_there_is_room_for_what_was_dropped() -> None:
    views = RecordViews(Caps(only(Kind.IPS, 10)))
    view = views.part(Kind.IPS)
    view.feed([put(f"{n:02}") for n in range(12)], 0)
    assert views.due() == ()
    view.feed([drop("00")], 0)
    assert views.due() == (Kind.IPS,)
    view.begin_listing()
    assert views.due() == ()
    views.want_again(Kind.NODES)
    assert views.due() == (Kind.NODES,)


async def flood(south: PeerStore, count: int, start: int = 0) -> None:
    south.store.commit(
        {record_keys.ip_key("south", f"10.2.{n >> 8}.{n & 255}"): b"{}" for n in range(start, start + count)}, 0
    )


async def test_a_flood_is_cut_off_shown_and_let_in_again_when_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path, SessionOptions(caps=Caps(only(Kind.IPS, 100))))
    async with world.running():
        south = await world.filled()
        east = await world.filled("east", 3)
        await world.until(lambda: world.state().is_ready and world.state("east").is_ready)
        with caplog.at_level(logging.WARNING):
            await flood(south, 300)
            await world.until(lambda: len(world.consumer().known[Kind.IPS]) == 100)
        shown = remote_cluster(world.state(), world.clock.monotonic())
        assert shown.ready
        assert shown.num_endpoints == 100
        assert (shown.truncated["ip"].total, len(shown.truncated["ip"].first)) == (200, 10)
        assert "publishes more than is taken: ip, 200 records beyond 100 records" in shown.warnings[0]
        assert [r.getMessage() for r in caplog.records].count("peer publishes more than is taken") == 1
        await east.service("10.3.0.9")
        await south.service("10.2.0.77")
        await world.until(lambda: b"10.2.0.77" in world.consumer().known[Kind.SERVICES][b"test/echo"])
        assert not remote_cluster(world.state("east"), world.clock.monotonic()).truncated
        south.store.commit({record_keys.ip_key("south", f"10.2.{n >> 8}.{n & 255}"): None for n in range(250)}, 0)
        listings = world.consumer().verbs.count("listed ip")
        await world.until(lambda: world.consumer().verbs.count("listed ip") > listings, session_module.RELIST_S + 5)
        await world.pass_s(1)
        assert len(world.consumer().known[Kind.IPS]) == 50
        assert not world.state().truncated
        assert world.attempts == 2


async def test_changes_beyond_the_burst_are_followed_at_the_rate(tmp_path: Path) -> None:
    """Back pressure: the store's own bounds hold what waits, and other peers are not slowed."""
    world = World(tmp_path, SessionOptions(caps=Caps(changes_per_s=10, changes_burst=20)))
    async with world.running():
        south = await world.filled()
        east = await world.filled("east", 3)
        await world.until(lambda: world.state().is_ready and world.state("east").is_ready)
        await world.pass_s(5)
        for number in range(5):
            await flood(south, 20, number * 20)
            await turns()
        await world.pass_s(1)
        assert len(world.consumer().known[Kind.IPS]) < 70
        await east.service("10.3.0.77")
        await world.until(lambda: b"10.3.0.77" in world.consumer("east").known[Kind.SERVICES][b"test/echo"], 1)
        await world.until(lambda: len(world.consumer().known[Kind.IPS]) == 100, 12)


async def test_bytes_beyond_the_burst_are_followed_at_the_rate(tmp_path: Path) -> None:
    world = World(tmp_path, SessionOptions(caps=Caps(size_bytes=20_000, bytes_per_s=100)))
    async with world.running():
        south = await world.filled()
        await world.until(lambda: world.state().is_ready)
        for number in range(8):
            await south.put(record_keys.ip_key("south", "10.2.0.9"), bytes([number]) * 5_000)
            await turns()
        await world.pass_s(2)
        assert world.consumer().known[Kind.IPS][b"10.2.0.9"][0] < 7
        await world.until(lambda: world.consumer().known[Kind.IPS][b"10.2.0.9"][0] == 7, 30)


async def test_the_own_cluster_has_no_caps(tmp_path: Path) -> None:
    world = World(tmp_path, SessionOptions(caps=Caps(only(Kind.IPS, 5), changes_burst=1, changes_per_s=0.001)))
    north = PeerStore("north", 1, world.clock)
    await north.fill()
    north.store.commit({record_keys.ip_key("north", f"10.1.0.{n}"): b"{}" for n in range(200)}, 0)
    world.stores["north"] = north
    world.follower.expect_own(b"endpoints:\n- http://north:2379\n")
    async with world.running():
        await world.until(lambda: world.state("north").is_ready)
        assert len(world.consumer("north").known[Kind.IPS]) == 201
        assert UNLIMITED.records == {}
