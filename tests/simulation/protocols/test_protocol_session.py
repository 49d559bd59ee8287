# SPDX-License-Identifier: Apache-2.0
"""Following two peers: every order of attempts, lost connections, listings cut between their pages, and a few changes of a peer.

In every state what is known of a peer that lives under the same id is still known, and no id has records of two peers; from every
state, once a peer may be followed, what it publishes is known and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.simulation.protocols.explorer import explore, replay
from tests.simulation.protocols.session_world import SessionWorld

MAXIMUM = 5_000
CHANGES = {
    "id": ["south changes its id"],
    "form-twice": ["south changes its form"] * 2,
    "id-and-form": ["south changes its id", "south changes its form"],
    "failing-consumer": ["south meets a failing consumer", "south deletes a record"],
    "failing-consumer-and-id": ["south meets a failing consumer", "south changes its id"],
    "refused-and-taken-id": ["south says a form unknown here", "east takes the other's id"],
    "refused-and-back": ["south says a form unknown here", "south says its form again", "east takes the other's id"],
    "refused-id-taken": ["south says a form unknown here", "south changes its id", "east takes the other's id"],
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_nothing_of_a_living_peer_vanishes_and_every_state_heals(changes: list[str]) -> None:
    explored = explore(SessionWorld(changes), maximum=MAXIMUM, check=SessionWorld.healed)
    assert explored.states > 100


# -- what was found, each as the shortest history that led to it


def test_a_peer_that_is_refused_keeps_the_id_under_which_its_records_are_known() -> None:
    world = replay(
        SessionWorld(CHANGES["refused-and-taken-id"]),
        ["south is attempted", "south begins to list", "south says a form unknown here", "south is lost", "south is attempted",
         "east takes the other's id", "east is attempted"],
    )  # fmt: skip
    assert world.peers["east"].attempt is None
    assert "already used by cluster south" in world.peers["east"].state.last_error
    assert world.problem() is None


def test_a_record_whose_removal_failed_is_removed_by_the_next_listing() -> None:
    listed = ["south is attempted", "south begins to list", "south is listed"]
    world = replay(
        SessionWorld(CHANGES["failing-consumer"]), [*listed, "south meets a failing consumer", "south deletes a record"]
    )
    south = world.peers["south"]
    assert south.attempt is None, "the failure ended the attempt"
    replay(world, listed)
    assert {key for known in south.consumer.known.values() for key in known} == {b"a"}
