# SPDX-License-Identifier: Apache-2.0
"""A peer's records in our store: copied as they are, kept while it is away, drained only when it is removed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from mirror_world import ABSENT_TURNS, CACHED, CANARIES, GREEN, World

from clustermesh_apiserver.mirror import drain as drain_module
from clustermesh_apiserver.mirror import peers as peers_module
from clustermesh_apiserver.mirror.drain import drain
from clustermesh_apiserver.mirror.leader import lead
from kvstore.errors import KvError, Unavailable
from kvstore.memory import MemoryStore
from kvstore.memoryserver import MemoryServer
from kvstore.readback import READ_BACK_S
from meshapi.peer import PeerState
from meshkit.clock import ManualClock, SystemClock, settle
from meshmodel.keys import MIRROR_LOCK_PREFIX
from meshmodel.names import ClusterName
from meshpeer.session import SessionOptions
from meshpeer.signals import SignalLimits
from tests.unit.apiserver.apiserver_wait import until


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_records_are_copied_as_they_are_into_the_cached_shapes(world: World) -> None:
    """T23 on the writer's side: addresses replace `default`, identities get the cluster before `id`."""
    world.peer("green", {**GREEN, **CANARIES})
    async with world.running() as mirror:
        await until(lambda: bool(mirror.statuses()) and mirror.statuses()[0].ready)
        await until(lambda: len(world.canaries()) == 6)
        assert world.cached() == CACHED
        assert world.canaries() == {
            b"cilium/cache/" + kind + b"/v1"
            for kind in (b"nodes", b"ip", b"identities", b"services", b"serviceexports", b"endpointslices")
        }
        assert all(entry.lease for entry in world.own.server.entries.values())
        status = mirror.statuses()[0]
        assert (status.num_nodes, status.num_endpoints, status.num_identities, status.num_shared_services) == (
            1,
            3,
            1,
            1,
        )
        assert status.config.cluster_id == 7
        assert status.synced.service_exports is None


async def test_nothing_is_listed_before_the_peers_canary(world: World) -> None:
    store = world.peer("green", GREEN)
    async with world.running():
        await until(lambda: b"cilium/cluster-config/green" in world.own.server.entries)
        await settle(ABSENT_TURNS)
        assert set(world.cached()) == {b"cilium/cluster-config/green"}
        store.commit(dict(CANARIES), 0)
        await until(lambda: world.cached() == CACHED)


async def test_changes_follow_and_a_refilled_peer_costs_no_record(world: World) -> None:
    """T8: the peer's store is wiped and filled again."""
    store = world.peer("green", {**GREEN, **CANARIES})
    async with world.running() as mirror:
        await until(lambda: world.cached() == CACHED)
        await until(lambda: mirror.statuses()[0].ready)
        store.commit({b"cilium/state/nodes/v1/green/n2": b"{2}", b"cilium/state/nodes/v1/green/n1": None}, 0)
        await until(lambda: b"cilium/cache/nodes/v1/green/n1" not in world.cached())
        assert world.cached()[b"cilium/cache/nodes/v1/green/n2"] == b"{2}"
        before = {key: entry.revision for key, entry in world.own.server.entries.items()}
        store.wipe()
        await settle(ABSENT_TURNS)
        assert {key: entry.revision for key, entry in world.own.server.entries.items()} == before
        again = {**GREEN, b"cilium/state/nodes/v1/green/n2": b"{2}"}
        del again[b"cilium/state/nodes/v1/green/n1"], again[b"cilium/state/ip/v1/default/fd00::7"]
        store.commit(again, 0)
        store.commit(dict(CANARIES), 0)
        await until(lambda: b"cilium/cache/ip/v1/green/fd00::7" not in world.cached())
        after = {key: entry.revision for key, entry in world.own.server.entries.items()}
        assert after == {key: before[key] for key in after}


async def test_a_removed_peer_is_drained_after_the_grace_and_the_config_goes_at_once(world: World) -> None:
    """T24."""
    world.peer("green", {**GREEN, **CANARIES})
    world.peer(
        "red",
        {
            key.replace(b"green", b"red"): value.replace(b'"id":7', b'"id":8')
            for key, value in {**GREEN, **CANARIES}.items()
        },
    )
    async with world.running(grace_s=0.3) as mirror:
        await until(lambda: len(mirror.statuses()) == 2 and all(peer.ready for peer in mirror.statuses()))
        (world.directory / "green").unlink()
        await until(lambda: b"cilium/cluster-config/green" not in world.cached())
        assert b"cilium/cache/nodes/v1/green/n1" in world.cached()
        await until(lambda: not any(b"green/" in key for key in world.own.server.entries))
        assert b"cilium/cache/nodes/v1/red/n1" in world.cached()
        assert [peer.name for peer in mirror.statuses()] == ["red"]
        assert len(world.canaries("red")) == 6


async def test_a_peer_that_comes_back_during_the_grace_is_not_drained(world: World) -> None:
    world.peer("green", {**GREEN, **CANARIES})
    clock = ManualClock()
    async with world.running(clock=clock, grace_s=60.0):
        await until(lambda: clock.advance(0.01) is None and world.cached() == CACHED)
        (world.directory / "green").unlink()
        await until(lambda: clock.advance(0.01) is None and b"cilium/cluster-config/green" not in world.cached())
        world.write("green", "endpoints: [green]")
        await until(lambda: clock.advance(0.01) is None and b"cilium/cluster-config/green" in world.cached())
        await clock.run_for(120.0)
        assert world.cached() == CACHED


async def test_what_a_peer_deleted_while_it_was_not_mirrored_goes_when_it_is_back(world: World) -> None:
    store = world.peer("green", {**GREEN, **CANARIES})
    async with world.running(grace_s=60):
        await until(lambda: world.cached() == CACHED)
        (world.directory / "green").unlink()
        await until(lambda: b"cilium/cluster-config/green" not in world.cached())
        store.commit({b"cilium/state/ip/v1/default/10.7.0.1": None}, 0)
        world.write("green", "endpoints: [green]")
        await until(lambda: b"cilium/cache/ip/v1/green/10.7.0.1" not in world.cached())
        rest = {key: value for key, value in CACHED.items() if key != b"cilium/cache/ip/v1/green/10.7.0.1"}
        await until(lambda: world.cached() == rest)


async def test_the_age_of_a_lost_peers_records_is_the_time_since_it_was_lost(world: World) -> None:
    store = world.peer("green", {**GREEN, **CANARIES})
    async with world.running() as mirror:
        await until(lambda: bool(mirror.statuses()) and mirror.statuses()[0].ready)
        assert (mirror.statuses()[0].age_s or 0) < 1
        store.stop()
        await until(lambda: not mirror.statuses()[0].connected)
        first = mirror.statuses()[0]
        await until(lambda: (mirror.statuses()[0].age_s or 0) > (first.age_s or 0))
        assert mirror.statuses()[0].last_update == first.last_update
        assert world.cached() == CACHED


async def test_a_peer_whose_heartbeat_is_silent_is_met_again_and_its_records_stay(
    world: World,
) -> None:
    """T10."""
    world.peer("green", {**GREEN, **CANARIES})
    async with world.running(SessionOptions(limits=SignalLimits(heartbeat_silence_s=0.1))) as mirror:
        await until(lambda: world.cached() == CACHED)
        await until(lambda: mirror.statuses()[0].num_failures >= 1)
        assert "no heartbeat" in mirror.statuses()[0].last_error
        await until(lambda: world.connects >= 2)
        assert world.cached() == CACHED


async def test_a_connection_that_stays_lost_is_made_anew(world: World) -> None:
    """A peer that was given a new authority answers again only to who reads its certificate anew."""
    store = world.peer("green", {**GREEN, **CANARIES})
    async with world.running(SessionOptions(limits=SignalLimits(lost_limit_s=0.05))) as mirror:
        await until(lambda: bool(mirror.statuses()) and mirror.statuses()[0].ready)
        assert world.connects == 1
        store.stop()
        await until(lambda: "connection lost" in mirror.statuses()[0].last_error or world.connects > 1)
        store.start()
        await until(lambda: world.connects > 1 and mirror.statuses()[0].ready)
        assert world.cached() == CACHED


async def test_stopping_drains_nothing(world: World) -> None:
    """T26."""
    world.peer("green", {**GREEN, **CANARIES})
    async with world.running():
        await until(lambda: world.cached() == CACHED)
    assert world.cached() == CACHED


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (b'{"id":1,"capabilities":{}}', "assigned to the local cluster"),
        (b'{"id":0}', "reserved"),
        (b'{"id":300}', "not supported"),
        (b'{"id":7,"capabilities":{"endpointSlicesExportMode":"new"}}', "not supported"),
        (b"nonsense", "JSON"),
    ],
)
async def test_a_peer_that_cannot_be_in_our_mesh_is_refused_with_the_reason(
    world: World, config: bytes, reason: str
) -> None:
    world.peer("green", {**GREEN, **CANARIES, b"cilium/cluster-config/green": config})
    async with world.running() as mirror:
        await until(lambda: bool(mirror.statuses()) and mirror.statuses()[0].state is PeerState.REFUSED)
        assert reason in mirror.statuses()[0].reason
        assert world.cached() == {}


async def test_two_peers_cannot_hold_one_id(world: World) -> None:
    world.peer("green", {**GREEN, **CANARIES})
    async with world.running() as mirror:
        await until(lambda: bool(mirror.statuses()) and mirror.statuses()[0].ready)
        world.peer("red", {key.replace(b"green", b"red"): value for key, value in {**GREEN, **CANARIES}.items()})
        await until(lambda: len(mirror.statuses()) == 2 and mirror.statuses()[1].state is PeerState.REFUSED)
        assert "already used by cluster green" in mirror.statuses()[1].reason


async def test_a_changed_config_of_the_peer_is_taken_over(world: World) -> None:
    store = world.peer("green", {**GREEN, **CANARIES})
    async with world.running(SessionOptions(config_recheck_s=0.02)):
        await until(lambda: world.cached() == CACHED)
        store.commit({b"cilium/cluster-config/green": b'{"id":9,"capabilities":{"syncedCanaries":true}}'}, 0)
        await until(lambda: b'"id":9' in world.cached()[b"cilium/cluster-config/green"])


async def test_files_that_are_no_peers_are_passed_over_or_shown(world: World) -> None:
    world.write("blue", "endpoints: [blue]")
    world.write("green.etcd-client.crt", "-----BEGIN")
    world.write("Not-A-Name", "endpoints: [x]")
    async with world.running() as mirror:
        await until(lambda: bool(mirror.refused))
        assert list(mirror.refused) == ["Not-A-Name"]
        assert mirror.statuses() == []


async def test_an_absent_peer_blocks_readiness_for_a_bounded_time_only(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers_module, "PEER_READY_S", 0.3)
    world.peer("green", {})
    async with world.running() as mirror:
        await until(lambda: mirror.blocking() == ["green"])
        await until(lambda: mirror.blocking() == [])
        assert mirror.statuses()[0].state is PeerState.CONNECTING


async def test_one_candidate_leads_and_the_next_takes_over() -> None:
    store = MemoryServer()
    led: list[str] = []

    async def work(name: str) -> None:
        led.append(name)
        await asyncio.Event().wait()

    tasks = []
    for name in ("a", "b"):
        client = MemoryStore(store)
        tasks.append(asyncio.create_task(lead(client, SystemClock(), lambda name=name: work(name))))
        await until(lambda: len([key for key in store.entries if key.startswith(MIRROR_LOCK_PREFIX)]) == len(tasks))
    await until(lambda: led == ["a"])
    await settle(ABSENT_TURNS)
    assert led == ["a"]
    tasks[0].cancel()
    await until(lambda: led == ["a", "b"])
    tasks[1].cancel()
    await asyncio.wait(tasks)
    assert not [key for key in store.entries if key.startswith(MIRROR_LOCK_PREFIX)]


async def test_a_leader_whose_lease_is_gone_steps_down() -> None:
    store, clock = MemoryServer(), ManualClock()
    client = MemoryStore(store)
    task = asyncio.create_task(lead(client, clock, asyncio.Event().wait))  # type: ignore[arg-type]
    await until(lambda: any(key.startswith(MIRROR_LOCK_PREFIX) for key in store.entries))
    key = next(key for key in store.entries if key.startswith(MIRROR_LOCK_PREFIX))
    await MemoryStore(store).revoke(store.entries[key].lease)
    for _ in range(20):
        clock.advance(5)
        await settle()
    with pytest.raises(KvError):
        await task


async def test_draining_is_repeated_without_another_grace() -> None:
    class Failing(MemoryStore):
        failures = 2

        async def delete_prefix(self, prefix: bytes) -> int:
            if Failing.failures:
                Failing.failures -= 1
                raise Unavailable("not now")
            return await super().delete_prefix(prefix)

    client, clock = Failing(), ManualClock()
    client.server.commit(dict.fromkeys(CACHED, b""), 0)
    task = asyncio.create_task(drain(client, ClusterName("green"), clock))
    slept = 0.0
    while not task.done():
        await settle()
        clock.advance(1)
        slept += 1
        assert slept < 500
    assert client.server.entries == {}
    assert drain_module.GRACE_S <= slept <= drain_module.GRACE_S + 20


async def test_copies_changed_behind_our_back_are_repaired_within_a_minute(world: World) -> None:
    """Records, canaries and the configuration of a peer; what others wrote beside the configuration is theirs."""
    world.peer("green", {**GREEN, **CANARIES})
    clock = ManualClock()
    async with world.running(clock=clock) as mirror:
        await until(lambda: clock.advance(0.01) is None and bool(mirror.statuses()) and mirror.statuses()[0].ready)
        await until(lambda: clock.advance(0.01) is None and len(world.canaries()) == 6)
        before = dict(world.own.server.entries)
        lies: dict[bytes, bytes | None] = {
            b"cilium/cluster-config/green": b'{"id":9}',
            b"cilium/cluster-config/red": b'{"id":3}',
            b"cilium/cache/nodes/v1/green/n1": None,
            b"cilium/cache/ip/v1/green/10.7.0.1": b"{lie}",
            b"cilium/cache/ip/v1/green/10.7.0.66": b"{foreign}",
            b"cilium/synced/green/cilium/cache/services/v1": None,
        }
        world.own.server.commit(lies, 0)
        clock.advance(READ_BACK_S + 1)
        repaired = {**CACHED, b"cilium/cluster-config/red": b'{"id":3}'}
        await until(lambda: clock.advance(0.01) is None and world.cached() == repaired and len(world.canaries()) == 6)
        after = world.own.server.entries
        assert {key for key, entry in after.items() if not entry.lease} == {b"cilium/cluster-config/red"}
        untouched = before.keys() - lies.keys()
        assert {key: after[key].revision for key in untouched} == {key: before[key].revision for key in untouched}


async def test_draining_is_given_up_after_the_last_attempt_and_says_what_becomes_of_the_rest(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(MemoryStore):
        attempts = 0

        async def delete_prefix(self, prefix: bytes) -> int:
            Failing.attempts += 1
            raise Unavailable("not now")

    clock = ManualClock()
    task = asyncio.create_task(drain(Failing(), ClusterName("green"), clock, grace_s=1.0))
    await clock.run_for(1.0 + sum(drain_module.FIRST_RETRY_S * 2**n for n in range(drain_module.ATTEMPTS - 1)))
    assert task.done()
    assert Failing.attempts == drain_module.ATTEMPTS
    assert "its records stay until their leases end" in caplog.records[-1].message
