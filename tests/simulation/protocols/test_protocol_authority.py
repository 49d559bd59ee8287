# SPDX-License-Identifier: Apache-2.0
"""certs rotate --ca over three clusters: every order of its steps with stops, passing time, a peer that is connected meanwhile
and one that is put back. In every state everybody who shows a certificate is believed by everybody who is connected, and the
command, run again, ends with the new authority alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from clustermesh_cli.exit_code import CommandRefusedError
from clustermesh_cli.plan.authority_replacement import ReplacementStep
from meshapi.installed import CA_SECRET
from tests.simulation.protocols.authority_world import AuthorityWorld, authority, patch_authority
from tests.simulation.protocols.explorer import explore, replay

MAXIMUM = 5_000
ANNOUNCED = ["rotate"] * 6
"""Announced, issued for each certificate that has to name both, told and marked."""


@pytest.fixture(autouse=True)
def one_new_authority() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch_authority(patch)
        yield


def reaches_its_goal(world: AuthorityWorld) -> str | None:
    """Checked once nobody interferes any more."""
    if world.joins or world.joining or world.is_done or world.refused:
        return None
    after = world.fork()
    for _ in range(60):
        if after.is_done or after.refused:
            break
        after.do("rotate")
        if "time passes" in after.steps():
            after.do("time passes")
    found = after.clusters["north"].kept[CA_SECRET]["data"]
    if after.refused:
        return None if "west" in after.refused else after.refused
    if not after.is_done or set(found) != {"ca.crt", "ca.key"}:
        return f"rotate, run again, does not end: {sorted(found)}"
    return after.problem()


@pytest.mark.parametrize("peers", [("south",), ("south", "west")], ids=["", "and-west"])
@pytest.mark.parametrize("joins", [False, True], ids=["alone", "joined"])
def test_nobody_is_refused_in_any_order(peers: tuple[str, ...], joins: bool) -> None:
    explore(AuthorityWorld(peers, joins=joins), maximum=MAXIMUM, check=None if joins else reaches_its_goal)


def test_nobody_is_refused_where_a_peer_is_put_back_to_the_trust_it_had() -> None:
    explore(AuthorityWorld(slips=True), maximum=MAXIMUM, check=reaches_its_goal)


# -- what was found, each as the shortest history that led to it


def test_who_is_told_again_has_time_to_see_it_before_the_new_authority_signs() -> None:
    world = replay(
        AuthorityWorld(slips=True), [*ANNOUNCED, "rotate", "time passes", "south is put back to the old trust"]
    )
    steps = []
    while ReplacementStep.WAIT not in steps:
        steps.append(world.command().step())
        assert world.problem() is None
    assert steps[0] is ReplacementStep.UNMARK
    assert ReplacementStep.REPLACE not in steps


def test_a_peer_that_was_connected_before_the_announcement_is_asked_for_and_not_left_behind() -> None:
    """It is connected between the first look at the peers and the first write."""
    world = replay(AuthorityWorld(joins=True), ["west reads whom to trust", "west is connected"])
    with pytest.raises(CommandRefusedError, match=r"west must be told of the new authority: .*; nothing was changed"):
        world.command().step()
    assert world.problem() is None
    assert authority("new").certificate_pem not in world.clusters["north"].kept[CA_SECRET]["data"].values()
