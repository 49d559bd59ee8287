# SPDX-License-Identifier: Apache-2.0
"""connect and disconnect over three clusters: every interleaving of two operators' writes, and every place where one stops.

An operator dies (and takes nothing back), or a write of its fails (and it takes back what it wrote). Demanded of every
state: no link that worked is broken unless somebody asked for it; what a verb did stays done; from there each verb, run again,
ends where it should, and `disconnect` knows every peer of which anything is left.

One thing is not demanded: a run that found everything written, and so wrote nothing, relies on a run that may yet be taken back.
"""

from __future__ import annotations

import pytest

from clustermesh_cli.plan.connection_mode import Mode
from tests.simulation.protocols.explorer import CounterexampleError, explore, replay
from tests.simulation.protocols.link_world import (
    NAMES,
    LinkWorld,
    Objects,
    Operator,
    Verb,
    connect,
    disconnect,
    disconnect_here,
    fresh,
    run_alone,
    told_peers,
    traces,
    working,
)

ONE_WAY = connect("north", "east", mode=Mode.UNICAST)
BOTH_WAYS = connect("north", "east")
PARTED = disconnect("north", "east")
WHOLE = run_alone(fresh(), connect(*NAMES, mode=Mode.MESH))
PAIR = run_alone(fresh(), BOTH_WAYS)
MAXIMUM = 5_000
_judged: dict[str, str | None] = {}  # by objects: many states differ in their operators only


def world(objects: Objects, *verbs: Verb, faults: str = "", cut: str = "") -> LinkWorld:
    return LinkWorld(objects, tuple(map(Operator, verbs)), frozenset(faults.split()), cut)


def judge(found: LinkWorld) -> str | None:
    """What must be so of every state beside what the world itself demands."""
    return _undone(found) or _out_of_reach(found)


def _undone(found: LinkWorld) -> str | None:
    parted = {link for one in found.operators if not one.verb.is_connect for link in one.verb.links}
    for one in found.operators if found.is_at_rest else ():
        lost = one.verb.links - parted - working(found.objects)
        if one.end == "done" and one.verb.is_connect and lost:
            return f"{one.verb.name} was done, and these links do not work: {sorted(lost)}"
    return None


def _out_of_reach(found: LinkWorld) -> str | None:
    known = found.objects_key
    if known not in _judged:
        _judged[known] = _judge_objects(found.objects)
    return _judged[known]


def _judge_objects(objects: Objects) -> str | None:
    for name in NAMES:
        if unknown := traces(objects, name) - told_peers(objects, name):
            return f"{name} has something of {sorted(unknown)}, which disconnect says are no peers of it"
    if lost := BOTH_WAYS.links - working(run_alone(objects, BOTH_WAYS)):
        return f"connect, run again, leaves links that do not work: {sorted(lost)}"
    after = run_alone(objects, PARTED)
    if "east" in traces(after, "north") or "north" in traces(after, "east"):
        return "disconnect, run again, leaves something of the peer"
    return None


@pytest.mark.parametrize("start", [fresh(), PAIR, WHOLE], ids=["fresh", "pair", "whole"])
@pytest.mark.parametrize("verb", [BOTH_WAYS, PARTED], ids=["connect", "disconnect"])
def test_a_run_that_stops_anywhere_is_completed_or_undone_by_the_next(verb: Verb, start: Objects) -> None:
    explore(world(start, verb, faults="die fail"), maximum=MAXIMUM, check=judge)


@pytest.mark.parametrize("cut", ["north", "east"])
@pytest.mark.parametrize("start", [fresh(), WHOLE], ids=["fresh", "whole"])
def test_a_cluster_that_cannot_be_reached_costs_no_link_that_worked(start: Objects, cut: str) -> None:
    explore(world(start, BOTH_WAYS, connect("north", "west"), cut=cut), maximum=MAXIMUM, check=judge)


@pytest.mark.parametrize("fault", ["die", "fail"])
def test_two_operators_make_the_same_link(fault: str) -> None:
    explore(world(fresh(), ONE_WAY, ONE_WAY, faults=fault), maximum=MAXIMUM, check=judge)


def test_two_operators_make_links_to_and_from_one_cluster() -> None:
    explore(world(fresh(), ONE_WAY, connect("west", "east", mode=Mode.UNICAST), faults="fail"), maximum=MAXIMUM)


@pytest.mark.parametrize("fault", ["die", "fail"])
def test_two_operators_end_the_same_link_and_every_other_stays(fault: str) -> None:
    parting = disconnect_here("east", "north")
    explore(world(WHOLE, parting, parting, faults=fault), maximum=MAXIMUM, check=judge)


def test_one_operator_ends_a_link_while_another_makes_a_different_one() -> None:
    joining = connect("west", "east", mode=Mode.UNICAST)
    explore(world(PAIR, disconnect_here("east", "north"), joining, faults="fail"), maximum=MAXIMUM, check=judge)


@pytest.mark.parametrize("start", [fresh(), PAIR], ids=["fresh", "pair"])
def test_operators_who_want_the_opposite_leave_what_each_of_them_can_finish(start: Objects) -> None:
    explore(world(start, ONE_WAY, disconnect_here("east", "north")), maximum=MAXIMUM, check=judge)


# -- what was found, each as the shortest history that led to it


def after(first: LinkWorld, *history: str) -> LinkWorld:
    return replay(first, [f"{number} {what}" for number, _, what in (step.partition(" ") for step in history)])


def finish(found: LinkWorld) -> LinkWorld:
    """Everybody goes on to the end, in turn."""
    while not found.is_at_rest:
        for number, one in enumerate(found.operators):
            if not one.end:
                found.do(f"{number} goes on")
    return found


def test_a_connect_notices_what_another_operator_undid_behind_it() -> None:
    """east lets north in, and somebody ends that before north learns of east: done was said of a link that east refused."""
    history = ["0 goes on"] * 3 + ["1 goes on"] * 5
    clash = finish(after(world(fresh(), ONE_WAY, disconnect_here("east", "north")), *history))
    done = [one.end for one in clash.operators if one.verb.is_connect]
    assert done == ["done"]
    assert ("north", "east") in working(clash.objects)


def test_a_user_that_is_left_alone_is_known_to_disconnect() -> None:
    objects = dict(fresh())
    objects.update(
        {place: obj for place, obj in run_alone(fresh(), ONE_WAY).items() if place[1].endswith("remote-users")}
    )
    assert traces(objects, "east") == told_peers(objects, "east") == {"north"}


def test_a_run_that_fails_halfway_leaves_a_link_that_another_finished() -> None:
    found = finish(
        after(world(fresh(), ONE_WAY, ONE_WAY, faults="fail"), "0 goes on", "0 goes on", *["1 goes on"] * 5, "0 fail")
    )
    assert sorted(one.end for one in found.operators) == ["done", "taken back"]
    assert ("north", "east") in working(found.objects)


def test_a_counterexample_is_a_shortest_history_that_runs_again() -> None:
    def wrong(found: LinkWorld) -> str | None:
        return "found" if ("north", "east") in working(found.objects) else None

    with pytest.raises(CounterexampleError, match="by this history:\n  0 goes on") as told:
        explore(world(fresh(), ONE_WAY, faults="die"), maximum=MAXIMUM, check=wrong)
    assert len(told.value.history) == 5
    assert wrong(replay(world(fresh(), ONE_WAY), told.value.history)) == "found"
