# SPDX-License-Identifier: Apache-2.0
"""What the own cluster tells its agents and no peer: pods of namespaces that are not global are known here all the same."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from agent_mesh_kit import FILE, Mesh, PeerStore

from agent.mesh.feature import MeshFeature
from agent.mesh.routes import mesh_problems
from meshkit.clock import ManualClock
from meshkit.health import Component, Health, HealthLevel
from meshmodel import keys, private_keys
from meshmodel.keys import Kind
from tests.support import record_keys

NUMBER = 1 << 16 | 9
ADDRESS = "10.1.0.9"
HIDDEN = {
    kind: private_keys.prefix_of(kind) + key.encode()
    for kind, key in ((Kind.IPS, ADDRESS), (Kind.IDENTITIES, str(NUMBER)))
}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def north(clock: ManualClock) -> PeerStore:
    """Our own store: one node, and no pod that a peer may know."""
    store = PeerStore("north", 1, clock)
    await store.config()
    await store.node("n2", "172.18.0.3", "10.1.0.0/24")
    await store.beat()
    return store


async def hide(store: PeerStore) -> None:
    """The pod is published, and moved below the private root."""
    await show(store)
    for kind, key in public().items():
        entry = await store.client.get(key)
        assert entry is not None
        await store.put(HIDDEN[kind], entry.value)
        await store.delete(key)


async def show(store: PeerStore) -> None:
    await store.identity(NUMBER)
    await store.ip(ADDRESS, NUMBER, "172.18.0.3")


def public() -> dict[Kind, bytes]:
    return {Kind.IPS: record_keys.ip_key("north", ADDRESS), Kind.IDENTITIES: keys.identity_key("north", NUMBER)}


async def announce_private(store: PeerStore) -> None:
    for kind in private_keys.PRIVATE_KINDS:
        await store.put(private_keys.canary_key(kind), b"now")


def own(path: Path, clock: ManualClock, store: PeerStore) -> Mesh:
    mesh = Mesh(path, clock)
    mesh.stores["north"] = store
    mesh.runner.expect_own(FILE % b"north")
    return mesh


def is_known(mesh: Mesh) -> bool:
    row = mesh.db.prefixes.get(f"{ADDRESS}/32")
    return row is not None and row.identity == NUMBER and row.is_known


async def test_a_private_pod_is_known_and_nothing_is_pruned_before_it_is(
    tmp_path: Path, clock: ManualClock, north: PeerStore
) -> None:
    await hide(north)
    await announce_private(north)
    await north.canaries()
    mesh = own(tmp_path, clock, north)
    async with mesh.running():
        await mesh.until(lambda: mesh.db.prefixes.initialized)
        assert is_known(mesh)
        for key in HIDDEN.values():
            await north.delete(key)
        await mesh.until(lambda: mesh.db.prefixes.get(f"{ADDRESS}/32") is None)


@pytest.mark.parametrize("is_shown_first", [True, False])
async def test_a_namespace_that_turns_global_or_back_never_loses_a_pod(
    tmp_path: Path, clock: ManualClock, north: PeerStore, is_shown_first: bool
) -> None:
    await hide(north)
    await announce_private(north)
    await north.canaries()
    mesh = own(tmp_path, clock, north)
    source, target = (HIDDEN, public()) if is_shown_first else (public(), HIDDEN)
    async with mesh.running():
        if not is_shown_first:
            await show(north)
            for key in HIDDEN.values():
                await north.delete(key)
        await mesh.until(lambda: mesh.db.prefixes.initialized and is_known(mesh))
        for kind in private_keys.PRIVATE_KINDS:
            entry = await north.client.get(source[kind])
            assert entry is not None
            await north.put(target[kind], entry.value)
        await mesh.pass_s(1)
        for key in source.values():
            await north.delete(key)
        await mesh.pass_s(1)
        assert is_known(mesh)
        for key in target.values():
            await north.delete(key)
        await mesh.until(lambda: mesh.db.prefixes.get(f"{ADDRESS}/32") is None)


async def test_a_store_without_a_private_part_holds_nobody_up(
    tmp_path: Path, clock: ManualClock, north: PeerStore
) -> None:
    await show(north)
    await north.canaries()
    mesh = own(tmp_path, clock, north)
    async with mesh.running():
        await mesh.until(lambda: mesh.db.prefixes.initialized)
        assert is_known(mesh)


async def test_a_store_that_denies_the_private_part_is_read_all_the_same(
    tmp_path: Path, clock: ManualClock, north: PeerStore
) -> None:
    await show(north)
    await north.canaries()
    north.store.denied.add(private_keys.PRIVATE)
    north.store.denied |= {private_keys.canary_key(kind) for kind in private_keys.PRIVATE_KINDS}
    mesh = own(tmp_path, clock, north)
    async with mesh.running():
        await mesh.until(lambda: mesh.db.prefixes.initialized)
        assert is_known(mesh)
        await mesh.pass_s(2)
        assert mesh.attempts == 1


async def test_a_peer_is_never_asked_for_private_records(tmp_path: Path, clock: ManualClock) -> None:
    south = PeerStore("south", 2, clock)
    await south.fill()
    await announce_private(south)
    await south.put(private_keys.prefix_of(Kind.IPS) + b"10.2.0.77", b'{"IP":"10.2.0.77","ID":131079}')
    mesh = Mesh(tmp_path, clock)
    async with mesh.running():
        mesh.add(south)
        await mesh.until(lambda: mesh.state().is_ready)
        await mesh.pass_s(2)
        assert mesh.db.prefixes.get("10.2.0.77/32") is None


@pytest.mark.runbook("own-store")
async def test_an_own_store_that_is_away_degrades_the_agent_until_it_is_back(
    tmp_path: Path, clock: ManualClock, north: PeerStore
) -> None:
    """What is known stays in force, the node stays ready, and whoever looks at the status is told: exit code 3."""
    await north.canaries()
    mesh, health = own(tmp_path, clock, north), Health()
    parts = SimpleNamespace(
        runner=mesh.runner, own_node=SimpleNamespace(problem=""), _core=SimpleNamespace(db=mesh.db, clock=clock)
    )

    def part() -> Component:
        MeshFeature.check_health(cast("Any", parts), health)
        return health.snapshot()["own store"]

    async with mesh.running():
        await mesh.until(lambda: part().level is HealthLevel.OK)
        assert mesh_problems(mesh.runner, mesh.db, clock) == []
        north.client.server.stop()
        await mesh.until(lambda: part().level is HealthLevel.DEGRADED, within_s=200)
        assert "what changes in the cluster is not learned, what is known stays in force" in part().message
        assert mesh_problems(mesh.runner, mesh.db, clock) == [f"own store: {part().message}"]
        assert health.ready()
        north.client.server.start()
        await mesh.until(lambda: part().level is HealthLevel.OK, within_s=200)
