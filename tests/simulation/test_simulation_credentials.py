# SPDX-License-Identifier: Apache-2.0
"""Certificates of a simulated mesh: connections that stand go on, new ones need files that the store accepts."""

from __future__ import annotations

import asyncio

import pytest

from meshapi.peer import RemoteCluster
from tests.simulation.credentials import Credential, Signer, Trust
from tests.simulation.test_simulation_world import share_a_service
from tests.simulation.world import Shape, World

LONG_S = 90.0


def _peer(world: World) -> RemoteCluster:
    """South, as north's apiserver sees it."""
    process = world.clusters["north"].apiserver
    assert process is not None
    assert process.apiserver is not None
    (found,) = process.apiserver.peers()
    return found


def _places(world: World) -> set[str]:
    return {value.address for _, value in world.clusters["north"].nodes["north-0"].machine.maps.backends.items()}


@pytest.mark.parametrize("credential", [Credential.EXPIRED, Credential.STRANGER, Credential.MISPLACED])
def test_a_peer_whose_store_refuses_our_files_stays_known_until_they_are_good(credential: Credential) -> None:
    async def go(world: World) -> None:
        await share_a_service(world)
        both = _places(world)
        assert len(both) == 2
        north, south = world.clusters["north"], world.clusters["south"]
        north.set_credential("south", credential)
        await asyncio.sleep(LONG_S)
        assert _peer(world).connected  # nobody asks for the files of a connection that stands
        south.store.cut()
        await asyncio.sleep(LONG_S)
        refused = _peer(world)
        assert not refused.connected
        assert _places(world) == both
        if credential is Credential.EXPIRED:
            assert "expired" in refused.last_error
            assert "clustermesh certs rotate" in refused.last_error
        north.set_credential("south", Credential.GOOD)
        await asyncio.sleep(15)
        assert _peer(world).ready
        assert _places(world) == both

    with World(7, Shape(2, 1)) as world:
        world.run(go(world))


def test_files_that_are_renewed_in_time_end_nothing() -> None:
    async def go(world: World) -> None:
        await share_a_service(world)
        world.clusters["north"].set_credential("south", Credential.RENEWED)
        world.clusters["south"].store.cut()
        await asyncio.sleep(15)
        assert _peer(world).ready

    with World(7, Shape(2, 1)) as world:
        world.run(go(world))


def test_an_authority_that_is_replaced_in_steps_ends_nothing_and_one_that_is_not_announced_does() -> None:
    async def go(world: World) -> None:
        await share_a_service(world)
        both = _places(world)
        north, south = world.clusters["north"], world.clusters["south"]

        async def connect_anew() -> None:
            north.store.cut()
            south.store.cut()
            await asyncio.sleep(15)

        for announce, sign, retire in ((Trust.BOTH, Signer.NEW, Trust.NEW), (Trust.BOTH, Signer.OLD, Trust.OLD)):
            north.set_trust("south", announce)
            await connect_anew()
            south.sign(sign)
            await connect_anew()
            assert world.credentials.are_good
            north.set_trust("south", retire)
            await connect_anew()
            assert _peer(world).ready
            assert _places(world) == both
        south.sign(Signer.NEW)
        assert not world.credentials.are_good
        await connect_anew()
        assert not _peer(world).connected
        assert "unknown authority" in _peer(world).last_error

    with World(7, Shape(2, 1)) as world:
        world.run(go(world))
