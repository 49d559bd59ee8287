# SPDX-License-Identifier: Apache-2.0
"""Three clusters, connected as a mesh, in any order and from any interrupted write: the steps alone, on values."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from clustermesh_cli.plan.connect import plan_links
from clustermesh_cli.plan.connection_mode import Mode
from clustermesh_cli.plan.facts import ClusterFacts, StoreAccess
from clustermesh_cli.plan.link_change import (
    PEERING_OBJECTS,
    LinkStep,
    connecting_steps,
    merge,
    next_change,
    parting_steps,
    plan_changes,
    restoring_patch,
)
from clustermesh_cli.plan.peering import PEERS_ANNOTATION, read_peers
from meshapi.installed import CA_BUNDLE, MIRROR_SECRET, PEERS_SECRET, REMOTE_USERS
from meshmodel.names import ClusterId, ClusterName
from tests.support.effort import examples

NAMES = ("east", "north", "west")
Place = tuple[str, str]
State = Mapping[Place, Mapping[str, Any]]


def facts(name: str) -> ClusterFacts:
    number = NAMES.index(name) + 1
    access = StoreAccess("NodePort", (f"192.0.2.{number}",), 32379)
    authority = f"CA of {name}".encode()
    return ClusterFacts(
        name, ClusterName(name), ClusterId(number), 255, authority, access, (f"10.{number}.0.0/24",), {}, True
    )


def fresh() -> State:
    own = {name: {"metadata": {}, "data": {f"{name}.crt": f"CA of {name}"}} for name in NAMES}
    empty: dict[Place, Mapping[str, Any]] = {
        (n, o): {"metadata": {}, "data": {}} for n in NAMES for o in PEERING_OBJECTS
    }
    users = {(name, REMOTE_USERS): {"metadata": {}, "data": {"users.yaml": "users: []\n"}} for name in NAMES}
    return {**empty, **users, **{(name, CA_BUNDLE): own[name] for name in NAMES}}


def run(state: State, steps: Iterable[LinkStep], writes: int = 1000) -> State:
    """The state after at most so many writes."""
    after, steps = dict(state), tuple(steps)
    for _ in range(writes):
        change = next_change(steps, after)
        if change is None:
            break
        after[change.context, change.name] = change.after
    return after


def mesh(*names: str) -> tuple[LinkStep, ...]:
    local, *others = (facts(name) for name in names)
    return connecting_steps(plan_links(local, others, Mode.MESH), "kube-system")


def gone(name: str) -> tuple[LinkStep, ...]:
    """Everybody else forgets it, as `disconnect PEER` in each of them does where it is down."""
    return parting_steps((other, name) for other in NAMES if other != name)


def seen(state: State) -> dict[str, tuple[set[str], set[str], set[str], set[str]]]:
    """Of each cluster: whom its agents and its mirror read, whom it lets in, and whose authority it trusts."""
    found = {}
    for name in NAMES:
        users = yaml.safe_load(state[name, REMOTE_USERS]["data"]["users.yaml"])["users"]
        files = {entry for entry in state[name, MIRROR_SECRET]["data"] if "." not in entry}
        known = set(read_peers(state[name, PEERS_SECRET]))
        assert known == {entry for entry in state[name, PEERS_SECRET]["data"] if "." not in entry}
        trusted = {entry.removesuffix(".crt") for entry in state[name, CA_BUNDLE]["data"]} - {name}
        found[name] = (known, files, {user["name"].removeprefix("remote-") for user in users}, trusted)
    return found


WHOLE = {name: (set(NAMES) - {name},) * 4 for name in NAMES}
NOTHING = {name: (set[str](),) * 4 for name in NAMES}


@pytest.mark.parametrize("order", list(itertools.permutations(NAMES)))
def test_a_mesh_is_the_same_from_whichever_cluster_it_is_made(order: tuple[str, ...]) -> None:
    assert seen(run(fresh(), mesh(*order))) == WHOLE


@settings(max_examples=examples(20))
@given(st.integers(0, 40), st.permutations(NAMES))
def test_what_is_remembered_between_decisions_changes_none_of_them(writes: int, order: list[str]) -> None:
    state, steps, decided = dict(run(fresh(), mesh(*order[:2]), writes)), mesh(*order), list[str]()

    def counted(step: LinkStep) -> LinkStep:
        def decide(old: Mapping[str, Any]) -> Mapping[str, Any]:
            decided.append(step.name)
            return step.decide(old)

        return replace(step, decide=decide)

    planned = plan_changes([counted(step) for step in steps], state)
    after = dict(state)
    for change in planned:
        assert next_change(steps, after) == change
        after[change.context, change.name] = change.after
    assert next_change(steps, after) is None
    assert len(decided) <= len(steps) + len(planned) * len(NAMES), (
        "only steps of the object that was written are asked again"
    )


@settings(max_examples=examples(20))
@given(st.integers(0, 40), st.permutations(NAMES))
def test_a_third_cluster_joins_later_whatever_was_interrupted(writes: int, order: list[str]) -> None:
    pair = run(fresh(), mesh(*order[:2]), writes)
    assert seen(run(pair, mesh(*order))) == WHOLE


@settings(max_examples=examples(20))
@given(st.integers(0, 40), st.integers(0, 12), st.sampled_from(NAMES))
def test_one_is_removed_while_down_and_comes_back(writes: int, forgotten: int, name: str) -> None:
    """It keeps what it knew of the others; whatever was written of the removal, connecting again makes the mesh whole."""
    partly = run(run(fresh(), mesh(*NAMES), writes), gone(name), forgotten)
    removed = run(partly, gone(name))
    assert all(name not in group for other, groups in seen(removed).items() if other != name for group in groups)
    assert seen(run(partly, mesh(*NAMES))) == seen(run(removed, mesh(*NAMES))) == WHOLE


@settings(max_examples=examples(20))
@given(st.integers(0, 40))
def test_everybody_parted_is_as_before_and_no_note_is_left(writes: int) -> None:
    pairs = [(a, b) for a in NAMES for b in NAMES if a != b]
    after = run(run(fresh(), mesh(*NAMES), writes), parting_steps(pairs))
    assert seen(after) == NOTHING
    assert all(not after[n, PEERS_SECRET]["metadata"].get("annotations", {}).get(PEERS_ANNOTATION) for n in NAMES)


@settings(max_examples=examples(20))
@given(st.integers(0, 40), st.integers(0, 40))
def test_taking_back_one_connect_leaves_another_that_was_written_between_its_writes(mine: int, theirs: int) -> None:
    """Both make the mesh of a pair with north: what of ours is taken back is gone, what is theirs is whole."""
    ours, others = mesh("north", "east"), mesh("north", "west")
    state, begun = dict(fresh()), []
    for _ in range(mine):
        change = next_change(ours, state)
        if change is None:
            break
        begun.append(change)
        state[change.context, change.name] = change.after
    state = dict(run(state, others, theirs))
    for change in reversed(begun):
        place = change.context, change.name
        state[place] = merge(state[place], restoring_patch(change, state[place]))
    assert seen(run(state, others)) == seen(run(fresh(), others))
