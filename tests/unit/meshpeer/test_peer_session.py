# SPDX-License-Identifier: Apache-2.0
"""How an attempt to follow a store ends, every way it can, and what is known afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvstore.errors import Rejected, Unavailable
from meshapi.peer import PeerState
from meshmodel import keys
from meshmodel.cluster_config import ExportMode
from meshmodel.keys import Kind
from meshmodel.names import ClusterName
from meshpeer import session as session_module
from meshpeer.follower import LOOK_S, RETRY_S
from meshpeer.session import SessionOptions
from meshpeer.signals import LOST_LIMIT_S
from meshpeer.status import remote_cluster
from meshpeer.turns import EVENTS_PER_TURN
from tests.support import record_keys
from tests.unit.meshpeer.follower_world import World, turns
from tests.unit.meshpeer.peer_store import PeerStore

SERVICE = b"test/echo"


def knows_service(world: World) -> bool:
    return SERVICE in world.consumer().known.get(Kind.SERVICES, {})


async def test_a_connection_that_is_lost_for_ever_ends_the_attempt(tmp_path: Path) -> None:
    """The next attempt reads certificates and addresses as they are then; what is known stays."""
    world = World(tmp_path)
    async with world.running():
        south = await world.filled()
        await world.until(lambda: world.state().is_ready)
        south.store.stop()
        await world.until(lambda: not world.state().is_connected)
        assert world.state().state is PeerState.DISCONNECTED
        took_s = await world.until(lambda: world.state().failures == 1, LOST_LIMIT_S + 5)
        assert took_s >= LOST_LIMIT_S - 1
        assert f"connection lost for {LOST_LIMIT_S:g} s" in world.state().last_error
        assert world.closed == 1
        assert knows_service(world)
        south.store.start()
        await south.beat()
        await world.until(lambda: world.state().is_ready, RETRY_S[1] + 5)
        assert world.attempts > 1
        assert "drain" not in world.consumer().verbs


async def test_a_connection_that_comes_back_in_time_is_the_same_attempt(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running():
        south = await world.filled()
        await world.until(lambda: world.state().is_ready)
        south.store.stop()
        await world.pass_s(
            LOST_LIMIT_S / 4
        )  # the stream's next attempt, after its back-off, comes before the limit too
        south.store.start()
        await world.until(lambda: world.state().is_ready, 10)
        assert (world.attempts, world.state().failures) == (1, 0)


async def test_a_store_that_never_answers_ends_the_attempt(tmp_path: Path) -> None:
    """Connected, configuration read, and then no stream ever stands."""
    world = World(tmp_path)
    async with world.running():
        world.mute.add(b"cilium/")
        await world.filled()
        await world.until(lambda: world.state().config is not None)
        await world.until(lambda: world.state().failures == 1, LOST_LIMIT_S + 2)
        assert "connection lost" in world.state().last_error
        assert not world.state().is_synced


async def test_a_silent_heartbeat_ends_the_attempt(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running():
        await world.filled()
        await world.until(lambda: world.state().is_ready)
        await world.pass_s(115)
        assert world.state().failures == 0
        await world.until(lambda: world.state().failures == 1, 10)
        assert "no heartbeat for 120 s" in world.state().last_error
        assert knows_service(world)


async def test_a_denied_stream_ends_the_attempt_and_is_shown_as_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running():
        south = PeerStore("south", 2, world.clock)
        await south.fill()
        south.store.denied.add(keys.services_prefix("south"))
        world.add(south)
        await world.until(lambda: world.state().state is PeerState.REFUSED)
        assert "permission denied" in world.state().reason
        south.store.denied.clear()
        await world.until(lambda: world.state().is_ready, 10)


@pytest.mark.parametrize("error", [OSError("no route"), Rejected("cert.pem: cannot be read")])
async def test_a_store_that_cannot_be_connected_to_ends_the_attempt(tmp_path: Path, error: Exception) -> None:
    world = World(tmp_path)
    world.connect_error = error
    async with world.running():
        await world.filled()
        await world.until(lambda: world.attempts == 1)
        assert str(error) in world.state().reason
        assert (world.state().state is PeerState.REFUSED) == isinstance(error, Rejected)
        world.connect_error = None
        await world.until(lambda: world.state().is_ready, 10)


async def test_the_cause_of_a_refused_connection_is_shown_in_place_of_what_grpc_calls_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.connect_error, world.cause = (
        Unavailable("Socket closed"),
        "our certificate remote-north expired on 2026-01-01",
    )
    async with world.running():
        await world.filled()
        await world.until(lambda: world.state().failures > 0)
        assert world.state().last_error == world.cause


async def test_no_configuration_in_time_ends_the_attempt(tmp_path: Path) -> None:
    world = World(tmp_path, SessionOptions(config_wait_s=30))
    async with world.running():
        south = PeerStore("south", 2, world.clock)
        world.add(south)
        await world.pass_s(28)
        assert world.state().failures == 0
        assert "waiting for the cluster configuration" in world.state().reason
        await world.until(lambda: world.state().failures == 1, 5)
        assert world.closed == 1


async def test_a_configuration_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running():
        south = PeerStore("south", 2, world.clock)
        await south.put(keys.cluster_config_key("south"), b"nonsense")
        world.add(south)
        await world.until(lambda: world.state().state is PeerState.REFUSED)
        await south.fill()
        await world.until(lambda: world.state().is_ready, 10)


async def test_a_configuration_with_our_id_is_refused_after_the_former_data_is_drained(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running():
        south = await world.filled()
        await world.until(lambda: world.state().is_ready)
        await south.config(id=1)
        await world.until(lambda: world.state().state is PeerState.REFUSED, 20)
        assert "local cluster" in world.state().reason
        assert "drain" in world.consumer().verbs
        assert not world.consumer().known
        assert not world.state().synced


async def test_a_changed_configuration_ends_the_attempt_and_begins_another(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running():
        south = await world.filled()
        await world.until(lambda: world.state().is_ready)
        await south.config(service_exports_enabled=False)
        await world.until(lambda: world.attempts == 2, session_module.CONFIG_RECHECK_S + 2)
        assert "configuration changed" in world.state().last_error
        assert knows_service(world)
        await world.until(lambda: world.state().is_ready)
        assert "drain" not in world.consumer().verbs


async def test_a_removed_configuration_ends_the_attempt_and_keeps_what_is_known(tmp_path: Path) -> None:
    """A mirror takes the configuration away before the records: they must not be followed into nothing."""
    world = World(tmp_path)
    async with world.running():
        south = await world.filled()
        await world.until(lambda: world.state().is_ready)
        await south.delete(keys.cluster_config_key("south"))
        await world.until(lambda: world.state().failures == 1, session_module.CONFIG_RECHECK_S + 2)
        await south.delete(record_keys.service_key("south", "test/echo"))
        await world.pass_s(60)
        assert knows_service(world)
        assert not world.state().is_ready


async def test_a_configuration_that_cannot_be_looked_at_for_a_moment_does_not_end_the_attempt(tmp_path: Path) -> None:
    world = World(tmp_path, SessionOptions(config_recheck_s=1.0))
    async with world.running():
        south = await world.filled()
        await world.until(lambda: world.state().is_ready)
        south.store.stop()
        await world.pass_s(4)
        south.store.start()
        await world.until(lambda: world.state().is_connected, 10)
        assert world.state().failures == 0


async def test_a_consumer_that_fails_ends_this_attempt_only_and_is_told_everything_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running():
        south = await world.filled()
        east = await world.filled("east", 3)
        await world.until(lambda: world.state().is_ready and world.state("east").is_ready)
        world.consumer().fails_with = RuntimeError("a bug")
        await south.service("10.2.0.77")
        await world.until(lambda: world.state().failures > 0)
        assert "a bug" in world.state().reason
        world.consumer().fails_with = None
        await world.until(lambda: world.state().is_ready, 10)
        assert b"10.2.0.77" in world.consumer().known[Kind.SERVICES][SERVICE]
        await east.service("10.3.0.1")
        await world.until(lambda: b"10.3.0.1" in world.consumer("east").known[Kind.SERVICES][SERVICE])
        assert world.state("east").failures == 0


async def test_stopping_closes_the_client_and_drains_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running():
        await world.filled()
        await world.until(lambda: world.state().is_ready)
    assert world.closed == 1
    assert knows_service(world)
    assert not {"drain", "remove"} & set(world.consumer().verbs)


async def test_a_client_that_cannot_be_closed_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "CLOSE_WAIT_S", 0.0)
    world = World(tmp_path)
    async with world.running():
        await world.filled()
        await world.until(lambda: world.state().is_ready)
        world.never_closes = True
        world.remove("south")
        await world.until(lambda: not world.follower.members)
    assert world.closed == 0


async def test_a_removed_cluster_is_taken_back_and_its_id_is_free(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running():
        await world.filled()
        await world.until(lambda: world.state().is_ready)
        consumer = world.consumer()
        await world.filled("east", 2)
        await world.until(lambda: world.state("east").state is PeerState.REFUSED)
        assert "already used by cluster south" in world.state("east").reason
        world.remove("south")
        await world.until(lambda: ClusterName("south") not in world.follower.members)
        assert consumer.verbs[-1] == "remove"
        await world.until(lambda: world.state("east").is_ready, 10)


async def test_one_stream_that_stays_lost_makes_the_cluster_unready_and_is_named(tmp_path: Path) -> None:
    """The others go on: a whole new listing of everything would cost more than it mends."""
    world = World(tmp_path)
    async with world.running():
        south = await world.filled()
        await world.until(lambda: world.state().is_ready)
        world.mute.add(keys.services_prefix("south"))
        await south.service("10.2.0.77")
        await world.until(lambda: not world.state().is_ready, LOST_LIMIT_S + 3)
        assert "services" in world.state().reason
        assert (world.state().is_connected, world.attempts) == (True, 1)
        await south.node("s2", "172.18.0.6")
        await world.until(lambda: b"s2" in world.consumer().known[Kind.NODES])
        world.state().note_lost_streams(())
        assert world.state().state is PeerState.READY


async def test_a_large_listing_is_applied_in_parts(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running():
        south = PeerStore("south", 2, world.clock)
        await south.fill()
        count = 2 * EVENTS_PER_TURN + 5
        south.store.commit({record_keys.ip_key("south", f"10.2.{n >> 8}.{n & 255}"): b"{}" for n in range(count)}, 0)
        world.add(south)
        await world.until(lambda: world.state().is_ready, 20)
        assert len(world.consumer().known[Kind.IPS]) == count
        assert max(size for _, size in world.consumer().applied) <= EVENTS_PER_TURN
        south.store.wipe()
        await south.fill()
        await world.until(lambda: len(world.consumer().known[Kind.IPS]) == 1, 20)
        assert max(size for _, size in world.consumer().applied) <= EVENTS_PER_TURN


@pytest.mark.parametrize("prefer", [False, True])
async def test_a_cluster_that_publishes_slices_only_becomes_ready_whatever_is_preferred(
    tmp_path: Path, prefer: bool
) -> None:
    world = World(tmp_path, SessionOptions(prefer_slices=prefer))
    async with world.running():
        south = PeerStore("south", 2, world.clock)
        await south.config(endpoint_slices_export_mode=ExportMode.ENDPOINT_SLICES)
        await south.slice("10.2.0.41")
        await south.canaries(Kind.NODES, Kind.IPS, Kind.IDENTITIES, Kind.ENDPOINT_SLICES)
        await south.beat()
        world.add(south)
        await world.until(lambda: world.state().is_ready, 10)
        assert world.state().kinds == (Kind.NODES, Kind.IDENTITIES, Kind.ENDPOINT_SLICES, Kind.IPS)
        assert list(world.consumer().known[Kind.ENDPOINT_SLICES]) == [b"test/echo-1"]
        await turns()


async def test_the_end_of_the_certificate_that_a_store_shows_is_in_its_status(tmp_path: Path) -> None:
    """Asked for each session; an answer that cannot be had for a moment changes nothing."""
    world = World(tmp_path)

    def shown() -> float:
        return remote_cluster(world.state(), world.clock.monotonic()).cert_not_after

    async with world.running():
        south = await world.filled()
        world.certificate_end_s = 1_900_000_000.0
        await world.until(lambda: world.state().is_ready)
        await world.until(lambda: shown() == 1_900_000_000.0, LOOK_S + 5)
        assert world.certificate_looks == 1
        world.certificate_end_s = 0.0
        south.store.stop()
        await world.until(lambda: world.state().failures == 1, LOST_LIMIT_S + 5)
        south.store.start()
        await south.beat()
        await world.until(lambda: world.certificate_looks == 2, RETRY_S[1] + LOOK_S + 10)
        assert shown() == 1_900_000_000.0


async def test_a_removed_cluster_is_not_followed_any_more(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running():
        await world.filled()
        await world.until(lambda: world.state().is_ready)
        world.remove("south")
        await world.until(lambda: ClusterName("south") not in world.follower.members)
        assert world.closed == 1
        await world.pass_s(30)
        assert world.attempts == 1


async def test_a_session_that_stands_began_once_whatever_it_hears(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running():
        south = await world.filled()
        await world.until(lambda: world.state().is_ready)
        since = world.state().session_since_wall_s
        for _ in range(5):
            await world.pass_s(1)
            await south.beat()
        await world.until(lambda: world.state().last_heard_s == world.clock.monotonic())
        assert world.state().session_since_wall_s == since


async def test_a_store_that_took_the_place_of_another_is_named_in_the_state(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running():
        south = await world.filled()
        await world.until(lambda: world.state().is_ready)
        former = world.state().store_id
        south.store.wipe()
        await south.fill()
        await world.until(lambda: world.state().store_id == former + 1, 10)
        assert world.attempts == 1
