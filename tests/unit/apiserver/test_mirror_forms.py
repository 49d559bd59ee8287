# SPDX-License-Identifier: Apache-2.0
"""A peer that publishes other kinds than before: when the new ones are announced, and when the former ones go."""

from __future__ import annotations

from pathlib import Path

import pytest
from mirror_world import ABSENT_TURNS, CACHED, CANARIES, GREEN, World

from clustermesh_apiserver.mirror import peer_copy as peer_copy_module
from meshkit.clock import settle
from meshpeer.session import SessionOptions
from tests.unit.apiserver.apiserver_wait import until

SLICES = {b"cilium/state/endpointslices/v1/green/shop/cart-1": b"{slice}"}
SLICES_CANARY = {b"cilium/synced/green/cilium/state/endpointslices/v1": b"2026"}
CONFIG = b'{"id":7,"capabilities":{"syncedCanaries":true,"endpointSlicesExportMode":"%s"}}'
SLICE_COPY, SERVICE_COPY = (
    b"cilium/cache/endpointslices/v1/green/shop/cart-1",
    b"cilium/cache/services/v1/green/shop/cart",
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_peer_that_publishes_slices_only_is_copied_and_ready(world: World) -> None:
    records = {
        key: value for key, value in {**GREEN, **SLICES, **CANARIES, **SLICES_CANARY}.items() if b"services" not in key
    }
    records[b"cilium/cluster-config/green"] = CONFIG % b"endpointslices-only"
    world.peer("green", records)
    async with world.running() as mirror:
        await until(lambda: bool(mirror.statuses()) and mirror.statuses()[0].ready)
        assert world.cached()[SLICE_COPY] == b"{slice}"
        await until(lambda: len(world.canaries()) == 6)


async def test_a_new_form_is_announced_when_it_is_copied_and_the_former_one_goes_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_copy_module, "FORMER_KIND_S", 0.3)
    monkeypatch.setattr(peer_copy_module, "TICK_S", 0.01)
    store = world.peer("green", {**GREEN, **CANARIES})
    async with world.running(SessionOptions(config_recheck_s=0.02)) as mirror:
        await until(lambda: world.cached() == CACHED)
        await until(lambda: mirror.statuses()[0].ready)
        store.commit({b"cilium/cluster-config/green": CONFIG % b"endpointslices-only", **SLICES}, 0)
        await until(lambda: world.connects == 2)
        await until(lambda: mirror.statuses()[0].connected)
        await settle(ABSENT_TURNS)
        assert b"endpointslices-only" not in world.cached()[b"cilium/cluster-config/green"]
        store.commit(dict(SLICES_CANARY), 0)
        await until(lambda: b"endpointslices-only" in world.cached()[b"cilium/cluster-config/green"])
        assert {SLICE_COPY, SERVICE_COPY} <= world.cached().keys()
        await until(lambda: SERVICE_COPY not in world.cached())
        assert world.cached()[SLICE_COPY] == b"{slice}"


async def test_a_kind_that_is_announced_and_not_copied_is_not_called_complete_when_the_peer_leaves_it(
    world: World,
) -> None:
    """Readers still follow it: a canary now would tell them that what came so far is all."""
    services, ours = b"cilium/synced/green/cilium/state/services/v1", b"cilium/cache/services/v1"
    store = world.peer("green", {**GREEN, **{key: value for key, value in CANARIES.items() if key != services}})
    async with world.running(SessionOptions(config_recheck_s=0.02)) as mirror:
        await until(lambda: len(world.canaries()) >= 3)
        assert b"endpointSlices" not in world.cached()[b"cilium/cluster-config/green"]
        store.commit({b"cilium/cluster-config/green": CONFIG % b"endpointslices-only", **SLICES}, 0)
        await until(lambda: world.connects == 2)
        await until(lambda: mirror.statuses()[0].connected)
        await settle(ABSENT_TURNS)
        assert ours not in world.canaries()
        store.commit(dict(SLICES_CANARY), 0)
        await until(lambda: b"endpointslices-only" in world.cached()[b"cilium/cluster-config/green"])
