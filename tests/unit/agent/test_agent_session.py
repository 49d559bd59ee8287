# SPDX-License-Identifier: Apache-2.0
"""What happens to a peer's data when its store comes, goes, empties, changes or lies: conformance T6 to T14, T25, T26."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from agent_mesh_kit import ECHO, FILE, Mesh, PeerStore

from agent.tables import Backend, ClaimOrigin
from meshapi.peer import PeerState
from meshkit.clock import ManualClock
from meshmodel import keys
from meshmodel.cluster_config import ClusterConfig
from meshmodel.keys import Kind
from meshmodel.names import ClusterName, ServiceName

ONLY_SLICES = "endpointslices-only"
OTHER = ServiceName("test", "other")
BACKENDS = (Backend("10.2.0.66", 80, "TCP"),)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def mesh(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Mesh]:
    mesh = Mesh(tmp_path, clock)
    async with mesh.running():
        yield mesh


@pytest.fixture
async def south(clock: ManualClock) -> PeerStore:
    store = PeerStore("south", 2, clock)
    await store.fill()
    return store


async def test_a_filled_peer_becomes_ready_and_its_backends_are_chosen(mesh: Mesh, south: PeerStore) -> None:
    mesh.add(south)
    await mesh.until(lambda: mesh.state().is_ready)
    assert mesh.backends() == ["10.2.0.9"]
    prefix = mesh.db.prefixes.get("10.2.0.9/32")
    assert prefix is not None
    assert (prefix.identity, prefix.tunnel, prefix.is_known) == (2 << 16 | 7, "172.18.0.5", True)
    cidr = mesh.db.prefixes.get("10.2.0.0/24")
    assert cidr is not None
    assert (cidr.identity, cidr.tunnel, cidr.origin) == (0, "172.18.0.5", ClaimOrigin.POD_CIDR)
    address = mesh.db.prefixes.get("172.18.0.5/32")
    assert address is not None
    assert (address.identity, address.tunnel, address.cluster_id) == (6, "", 2)


async def test_nothing_is_listed_before_its_canary(mesh: Mesh, clock: ManualClock) -> None:
    south = PeerStore("south", 2, clock)
    await south.config()
    await south.service("10.2.0.9")
    await south.beat()
    mesh.add(south)
    await mesh.until(lambda: mesh.state().config is not None)
    await mesh.pass_s(10)
    assert mesh.backends() == []
    assert not mesh.state().is_ready
    await south.canaries(Kind.SERVICES)
    await mesh.until(lambda: mesh.backends() == ["10.2.0.9"], 10)
    assert not mesh.state().is_ready
    await south.canaries()
    await mesh.until(lambda: mesh.state().is_ready)


async def test_without_the_canary_capability_listing_starts_at_once(mesh: Mesh, clock: ManualClock) -> None:
    south = PeerStore("south", 2, clock)
    await south.config(synced_canaries=False)
    await south.service("10.2.0.9")
    await south.beat()
    mesh.add(south)
    await mesh.until(lambda: mesh.state().is_ready)
    assert mesh.backends() == ["10.2.0.9"]


async def test_a_wiped_and_refilled_store_keeps_every_backend_throughout(mesh: Mesh, south: PeerStore) -> None:
    mesh.add(south)
    await mesh.until(lambda: mesh.state().is_ready)
    south.store.wipe()
    await south.config()
    await south.beat()
    await mesh.pass_s(30)
    assert mesh.backends() == ["10.2.0.9"]
    await south.node()
    await south.service("10.2.0.10")
    await south.canaries()
    await mesh.until(lambda: mesh.backends() == ["10.2.0.10"], 60)


async def test_heartbeat_silence_counts_a_failure_reconnects_and_keeps_the_data(mesh: Mesh, south: PeerStore) -> None:
    mesh.add(south)
    await mesh.until(lambda: mesh.state().is_ready)
    attempts = mesh.attempts
    await mesh.pass_s(100)
    assert mesh.state().failures == 0
    await mesh.pass_s(30)
    assert mesh.state().failures == 1
    assert "heartbeat" in mesh.state().last_error
    assert mesh.backends() == ["10.2.0.9"]
    await mesh.until(lambda: mesh.attempts > attempts and mesh.state().is_ready)


async def test_a_store_that_stops_freezes_what_is_known_and_says_so(mesh: Mesh, south: PeerStore) -> None:
    mesh.add(south)
    await mesh.until(lambda: mesh.state().is_ready)
    south.store.stop()
    await mesh.until(lambda: not mesh.state().is_connected)
    assert mesh.state().state is PeerState.DISCONNECTED
    assert "kept" in mesh.state().reason
    await mesh.pass_s(300)
    assert mesh.backends() == ["10.2.0.9"]
    south.store.start()
    await south.beat()
    await mesh.until(lambda: mesh.state().is_ready, 30)
    assert mesh.state().state is PeerState.READY


async def test_a_missing_cluster_configuration_is_waited_for_and_then_counts_as_failure(
    mesh: Mesh, clock: ManualClock
) -> None:
    south = PeerStore("south", 2, clock)
    mesh.add(south)
    await mesh.pass_s(100)
    assert mesh.state().failures == 0
    await mesh.pass_s(100)
    assert mesh.state().failures == 1
    await south.fill()
    await mesh.until(lambda: mesh.state().is_ready, 60)


@pytest.mark.parametrize(
    ("number", "text"),
    [(1, "local cluster"), (0, "reserved"), (256, "not supported")],
)
async def test_a_peer_with_an_impossible_id_is_refused_with_the_reason(
    mesh: Mesh, clock: ManualClock, number: int, text: str
) -> None:
    south = PeerStore("south", number, clock)
    await south.config()
    await south.canaries()
    await south.beat()
    mesh.add(south)
    await mesh.until(lambda: mesh.state().state is PeerState.REFUSED)
    assert text in mesh.state().reason
    assert mesh.db.backends.get((ECHO, south.name)) is None


async def test_an_id_that_another_peer_holds_is_refused_and_free_after_its_removal(
    mesh: Mesh, south: PeerStore, clock: ManualClock
) -> None:
    mesh.add(south)
    await mesh.until(lambda: mesh.state().is_ready)
    east = PeerStore("east", 2, clock)
    await east.config()
    await east.canaries()
    await east.beat()
    mesh.add(east)
    await mesh.until(lambda: mesh.state("east").state is PeerState.REFUSED)
    assert "already used by cluster south" in mesh.state("east").reason
    assert mesh.state().is_ready
    mesh.remove("south")
    await mesh.until(lambda: mesh.state("east").is_ready, 60)


async def test_a_changed_id_drains_before_it_is_reserved(mesh: Mesh, south: PeerStore) -> None:
    mesh.add(south)
    await mesh.until(lambda: mesh.state().is_ready)
    south.cluster_id = ClusterIdOfOurs = mesh.db.own_id  # noqa: N806 - it can not be reserved
    await south.config()
    south.store.cut()
    await mesh.until(lambda: mesh.state().state is PeerState.REFUSED, 120)
    assert mesh.backends() == []
    assert mesh.db.prefixes.get("10.2.0.9/32") is None
    assert list(mesh.db.identities.rows()) == []
    assert ClusterIdOfOurs == 1


async def test_a_removed_file_drains_everything_and_releases_the_id(mesh: Mesh, south: PeerStore) -> None:
    mesh.add(south)
    await mesh.until(lambda: mesh.state().is_ready)
    mesh.remove("south")
    await mesh.until(lambda: not mesh.runner.members)
    assert mesh.backends() == []
    assert [r for r in mesh.db.prefixes.rows() if r.cluster == "south"] == []
    assert list(mesh.db.nodes.rows()) == []
    assert list(mesh.db.identities.rows()) == []
    assert list(mesh.db.peers.rows()) == []


async def test_stopping_the_agent_drains_nothing(tmp_path: Path, clock: ManualClock, south: PeerStore) -> None:
    mesh = Mesh(tmp_path, clock)
    async with mesh.running():
        mesh.add(south)
        await mesh.until(lambda: mesh.state().is_ready)
    assert mesh.backends() == ["10.2.0.9"]
    assert mesh.db.prefixes.get("10.2.0.9/32") is not None


async def test_a_peer_lost_on_both_paths_is_withdrawn_and_chosen_again_when_one_is_back(
    tmp_path: Path, clock: ManualClock, south: PeerStore
) -> None:
    mesh = Mesh(tmp_path, clock)
    async with mesh.running():
        mesh.add(south)
        await mesh.until(lambda: mesh.state().is_ready)
        state = mesh.state()
        south.store.stop()
        await mesh.until(lambda: state.control_lost_s is not None)
        await mesh.pass_s(15)
        assert state.state is PeerState.DISCONNECTED  # without probes the lost session says nothing about the data path
        state.has_probes, state.data_lost_s = True, clock.monotonic()
        await mesh.pass_s(9)
        assert state.state is PeerState.DISCONNECTED
        await mesh.pass_s(2)
        peer = mesh.db.peers.get(ClusterName("south"))
        assert peer is not None
        assert (*state.shown, peer.is_withdrawn) == (PeerState.WITHDRAWN, peer.reason, True)
        state.data_lost_s = None
        await mesh.pass_s(1)
        peer = mesh.db.peers.get(ClusterName("south"))
        assert peer is not None
        assert (state.shown[0], peer.is_withdrawn) == (PeerState.DISCONNECTED, False)


async def test_an_expired_cache_drains_services_only(tmp_path: Path, clock: ManualClock, south: PeerStore) -> None:
    mesh = Mesh(tmp_path, clock, cache_ttl_s=60.0)
    async with mesh.running():
        mesh.add(south)
        await mesh.until(lambda: mesh.state().is_ready)
        south.store.stop()
        await mesh.pass_s(50)
        assert mesh.backends() == ["10.2.0.9"]
        await mesh.pass_s(30)
        assert mesh.backends() == []
        assert mesh.db.prefixes.get("10.2.0.9/32") is not None
        assert len(mesh.db.nodes) == 1
        assert len(mesh.db.identities) == 1
        assert mesh.state().revocations == 1
        south.store.start()
        await south.beat()
        await mesh.until(lambda: mesh.backends() == ["10.2.0.9"], 60)


async def test_the_cached_layout_is_read_where_the_configuration_says_so(mesh: Mesh, clock: ManualClock) -> None:
    south = PeerStore("south", 2, clock)
    await south.config(cached=True)
    await south.node(cached=True)
    await south.service("10.2.0.77", cached=True)
    await south.service("10.2.0.66")
    await south.put(b"cilium/cache/identities/v1/south/id/131079", b"k8s:io.cilium.k8s.policy.cluster=south;")
    await south.put(b"cilium/cache/ip/v1/south/10.2.0.77", b'{"IP":"10.2.0.77","HostIP":"172.18.0.5","ID":131079}')
    await south.canaries(cached=True)
    await south.beat()
    mesh.add(south)
    await mesh.until(lambda: mesh.state().is_ready)
    assert mesh.backends() == ["10.2.0.77"]
    assert mesh.db.identities.get(131079) is not None
    assert mesh.db.prefixes.get("10.2.0.77/32") is not None


async def test_one_peer_that_is_not_there_does_not_hold_up_another(
    mesh: Mesh, south: PeerStore, clock: ManualClock
) -> None:
    dead = PeerStore("dead", 3, clock)
    dead.store.stop()
    mesh.add(dead)
    mesh.add(south)
    await mesh.until(lambda: mesh.state().is_ready)
    assert not mesh.state("dead").is_ready


async def test_a_denied_prefix_surfaces_as_not_ready(mesh: Mesh, south: PeerStore) -> None:
    south.store.denied.add(keys.services_prefix("south"))
    mesh.add(south)
    await mesh.until(lambda: mesh.state().state is PeerState.REFUSED)
    assert "permission denied" in mesh.state().reason


async def test_sources_are_waited_for_until_listed_or_released(
    tmp_path: Path, clock: ManualClock, south: PeerStore
) -> None:
    mesh = Mesh(tmp_path, clock)
    mesh.add(south)
    dead = PeerStore("dead", 3, clock)
    dead.store.stop()
    mesh.add(dead)
    mesh.runner.expect_configured()
    assert not mesh.db.frontends.initialized
    async with mesh.running():
        await mesh.until(lambda: mesh.state().is_ready)
        assert mesh.db.frontends.waiting_for == ("dead services",)
        assert mesh.runner.release_waiting() == ("dead: nodes", "dead: ip", "dead: identities", "dead: services")
        assert mesh.db.initialized


async def test_services_of_a_cluster_survive_a_burst_of_stream_cuts(mesh: Mesh, south: PeerStore) -> None:
    mesh.add(south)
    await mesh.until(lambda: mesh.state().is_ready)
    for number in range(5):
        await south.service(f"10.2.0.{10 + number}", name=ServiceName("test", "echo"))
        south.store.cut()
        await asyncio.sleep(0)
    await mesh.until(lambda: mesh.backends() == ["10.2.0.14"], 30)
    assert mesh.runner.rejections.counts(ClusterName("south")) == {}


async def test_the_own_clusters_first_listing_is_never_given_up(tmp_path: Path, clock: ManualClock) -> None:
    """Without it every pod of ours would be unknown: the maps of an earlier agent stay in force until it is there."""
    mesh = Mesh(tmp_path, clock)
    mesh.stores["north"] = PeerStore("north", 1, clock)
    mesh.runner.expect_own(FILE % b"north")
    dead = PeerStore("dead", 3, clock)
    dead.store.stop()
    mesh.add(dead)
    mesh.runner.expect_configured()
    async with mesh.running():
        assert all(missing.startswith("dead: ") for missing in mesh.runner.release_waiting())
        await mesh.pass_s(10)
        assert set(mesh.db.prefixes.waiting_for) == {"north nodes", "north ip", "north identities"}
        assert mesh.runner.release_waiting() == ()
        assert not mesh.db.prefixes.initialized


@pytest.mark.parametrize(("before", "after"), [("", ONLY_SLICES), (ONLY_SLICES, "")])
async def test_another_form_of_backends_takes_over_when_it_is_listed_and_the_former_one_goes(
    mesh: Mesh, south: PeerStore, before: str, after: str
) -> None:
    async def publish(mode: str, address: str) -> None:
        if mode:
            await south.slice(address)
        else:
            await south.service(address)

    await south.config(endpoint_slices_export_mode=before)
    await publish(before, "10.2.0.9")
    await south.delete(canary := keys.canary_key("south", Kind.ENDPOINT_SLICES if after else Kind.SERVICES))
    mesh.add(south)
    await mesh.until(lambda: mesh.state().is_ready)
    with mesh.db.write():
        mesh.lb.set_backends(OTHER, south.name, south.cluster_id, BACKENDS, 0.0)
    await publish(after, "10.2.0.41")
    await south.config(endpoint_slices_export_mode=after)
    await mesh.until(lambda: mesh.attempts == 2, 20)
    await mesh.pass_s(10)
    assert mesh.backends() == ["10.2.0.9"]
    assert not mesh.state().is_ready
    await south.put(canary, b"now")
    await mesh.until(lambda: mesh.state().is_ready, 10)
    assert mesh.backends() == ["10.2.0.41"]
    assert mesh.db.backends.get((OTHER, south.name)) is None


async def test_a_service_in_several_slices_is_not_shrunk_while_they_are_listed_in_the_new_form(
    mesh: Mesh, south: PeerStore
) -> None:
    await south.service("10.2.0.9", "10.2.0.41")
    mesh.add(south)
    await mesh.until(lambda: mesh.state().is_ready)
    ingest = mesh.runner.members[south.name].consumer
    for number, address in enumerate(("10.2.0.9", "10.2.0.41")):
        await south.slice(address, name=f"echo-{number}")
    found = sorted((key, entry.value) for key, entry in south.store.entries.items() if b"/echo-" in key)
    config = ClusterConfig(id=south.cluster_id, endpoint_slices_export_mode=ONLY_SLICES)
    await ingest.begin(config, (Kind.ENDPOINT_SLICES,))
    for key, value in found:
        ingest.apply(Kind.ENDPOINT_SLICES, [(key.rpartition(b"south/")[2], value)])
        assert sorted(mesh.backends()) == ["10.2.0.41", "10.2.0.9"]
    await ingest.listed(Kind.ENDPOINT_SLICES)
    assert sorted(mesh.backends()) == ["10.2.0.41", "10.2.0.9"]


async def test_a_silent_peers_backends_expire_in_either_form(tmp_path: Path, clock: ManualClock) -> None:
    mesh = Mesh(tmp_path, clock, cache_ttl_s=60.0)
    south = PeerStore("south", 2, clock)
    await south.fill()
    await south.config(endpoint_slices_export_mode=ONLY_SLICES)
    await south.slice("10.2.0.41")
    async with mesh.running():
        mesh.add(south)
        await mesh.until(lambda: mesh.backends() == ["10.2.0.41"])
        south.store.stop()
        await mesh.pass_s(70)
        assert mesh.backends() == []
        south.store.start()
        await south.beat()
        await mesh.until(lambda: mesh.backends() == ["10.2.0.41"], 60)
