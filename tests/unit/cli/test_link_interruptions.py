# SPDX-License-Identifier: Apache-2.0
"""connect and disconnect that die after any of their writes, or meet another operator: the next run ends where it should."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import yaml
from connect_world import NS, KilledError, World, WritableApi

from clustermesh_cli.commands.disconnect import disconnect_contexts, disconnect_peer
from clustermesh_cli.exit_code import CommandError
from clustermesh_cli.plan.link_change import (
    PEERING_OBJECTS,
    LinkChange,
    LinkStep,
    next_change,
    parting_steps,
    plan_changes,
    restoring_patch,
)
from clustermesh_cli.plan.link_run import MAX_COLLISIONS
from clustermesh_cli.plan.peering import PEERS_ANNOTATION

USERS = f"{NS}/configmaps/clustermesh-remote-users"
PEERS = f"{NS}/secrets/cilium-clustermesh"
WRITES = 4  # to each cluster, by connect and by disconnect


def connect(world: World) -> None:
    world.connect()


def disconnect(world: World) -> None:
    disconnect_contexts(world.clients(), "kube-system", world.console)


def connected() -> World:
    world = World()
    world.connect()
    return world


def killed(world: World, verb: Callable[[World], None], context: str, number: int) -> World:
    """The world after the verb died behind its write of this number to a cluster."""
    api = world.north if context == "north" else world.south
    api.dies_after = len(api.writes) + number
    with pytest.raises(KilledError):
        verb(world)
    api.dies_after = 0
    return world


PLACES = [(context, number) for context in ("north", "south") for number in range(1, WRITES + 1)]


@pytest.mark.parametrize(("context", "number"), PLACES)
def test_a_connect_that_died_is_completed_by_the_next_one(context: str, number: int) -> None:
    world = killed(World(), connect, context, number)
    world.connect()
    assert _same_but_for_authorities(world, connected())
    before = len(world.writes())
    world.connect()
    assert len(world.writes()) == before


@pytest.mark.parametrize(("context", "number"), PLACES)
def test_a_connect_that_died_is_cleaned_up_by_disconnect(context: str, number: int) -> None:
    world = World()
    clean = world.state()
    disconnect(killed(world, connect, context, number))
    assert world.state() == clean


@pytest.mark.parametrize("then_connect", [True, False])
@pytest.mark.parametrize(("context", "number"), PLACES)
def test_a_disconnect_that_died_is_completed_by_the_next_one_or_undone_by_connect(
    context: str, number: int, then_connect: bool
) -> None:
    world = World()
    clean = world.state()
    world.connect()
    whole = world.state()
    killed(world, disconnect, context, number)
    if then_connect:
        world.connect()
        assert world.state() == whole
        return
    if world.state() != clean:
        disconnect(world)
    assert world.state() == clean


def _same_but_for_authorities(one: World, other: World) -> bool:
    """Every world has its own authorities: names, users and files are the same."""

    def shape(found: Any) -> Any:
        if not isinstance(found, dict):
            return yaml.safe_load(found) if isinstance(found, str) and found.startswith("users:") else ""
        return {name: shape(value) for name, value in found.items()}

    return [shape(side) for side in one.state()] == [shape(side) for side in other.state()]


# -- other operators at the same time


def let_in(name: str) -> Callable[[WritableApi], None]:
    def write(api: WritableApi) -> None:
        old = yaml.safe_load(api.answers[USERS]["data"]["users.yaml"])["users"]  # type: ignore[index]
        users = [*old, {"name": f"remote-{name}", "role": "remote"}]
        api.write(USERS, {"data": {"users.yaml": yaml.safe_dump({"users": users})}})

    return write


def note(name: str, record: str) -> Callable[[WritableApi], None]:
    """Another operator's connect with one more peer, before or after ours in the alphabet."""

    def write(api: WritableApi) -> None:
        notes: dict[str, str] = api.answers[PEERS]["metadata"].get("annotations") or {}  # type: ignore[index]
        known = yaml.safe_load(notes.get(PEERS_ANNOTATION, "{}"))
        text = yaml.safe_dump({**known, name: yaml.safe_load(record)}, default_flow_style=True, width=10_000)
        api.write(PEERS, {"metadata": {"annotations": {PEERS_ANNOTATION: _json(text)}}, "data": {name: "eA=="}})

    return write


def _json(text: str) -> str:
    return msgspec.json.encode(yaml.safe_load(text)).decode()


def users(api: WritableApi) -> list[str]:
    document = api.answers[USERS]["data"]["users.yaml"]  # type: ignore[index]
    return [user["name"] for user in yaml.safe_load(document)["users"]]


def test_what_another_operator_writes_between_our_reading_and_our_writing_stays() -> None:
    world = World()
    for api in (world.north, world.south):
        api.rivals = [note("east", '{"id": 9}'), let_in("west"), let_in("east"), note("west", '{"id": 8}')]
    world.connect()
    for api, other in ((world.north, "south"), (world.south, "north")):
        assert users(api) == sorted(["remote-east", f"remote-{other}", "remote-west"])
        known = yaml.safe_load(api.answers[PEERS]["metadata"]["annotations"][PEERS_ANNOTATION])  # type: ignore[index]
        assert set(known) == {"east", "west", other}


def test_taking_back_leaves_what_another_operator_wrote_since() -> None:
    world = World()
    world.north.has_sessions = world.south.has_sessions = False
    real = WritableApi._status

    def then_another_connects(api: WritableApi) -> Any:
        if not users(api)[1:] and len(api.writes) == WRITES:
            let_in("west")(api)
            note("west", '{"id": 8}')(api)
        return real(api)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WritableApi, "_status", then_another_connects)
        with pytest.raises(CommandError, match="what was there before is restored"):
            world.connect()
    assert users(world.north) == ["remote-west"]
    obj: Any = world.north.answers[PEERS]
    assert yaml.safe_load(obj["metadata"]["annotations"][PEERS_ANNOTATION]) == {"west": {"id": 8}}
    assert obj["data"] == {"west": "eA=="}


def test_disconnect_leaves_a_peer_that_is_connected_at_the_same_moment() -> None:
    world = connected()
    world.north.rivals = [let_in("west")]
    disconnect_peer(world.north.client("kind-north"), "kube-system", "kind-north", "south", world.console)
    assert users(world.north) == ["remote-west"]


def test_an_object_that_never_stands_still_ends_the_command() -> None:
    world = World()
    before = world.south.peering()
    world.north.rivals = [lambda api: api.write(f"{NS}/configmaps/clustermesh-ca-bundle", {})] * (MAX_COLLISIONS + 2)
    with pytest.raises(CommandError, match="409 Conflict"):
        world.connect()
    assert world.south.peering() == before


def test_users_that_somebody_garbles_meanwhile_are_named_and_all_else_is_taken_back() -> None:
    world = World()
    before = world.state()
    world.south.rivals = [lambda api: api.write(USERS, {"data": {"users.yaml": "users: all"}})] + [lambda _: None] * 2
    with pytest.raises(CommandError, match=r"NOT restored: clustermesh-remote-users of kind-south \(") as caught:
        world.connect()
    assert "users.yaml cannot be read (there is no list under users)" in str(caught.value)
    world.south.write(USERS, {"data": {"users.yaml": "users: []\n"}})
    assert world.state() == before


# -- values


def test_the_next_change_is_of_the_first_step_that_has_an_effect() -> None:
    def wants(value: str) -> LinkStep:
        return LinkStep("c", "clustermesh-ca-bundle", lambda _: {"data": {value: value}})

    steps = (wants("a"), wants("b"))
    change = next_change(steps, {("c", "clustermesh-ca-bundle"): {"data": {"a": "a"}}})
    assert change is not None
    assert change.patch == {"data": {"b": "b"}}
    assert next_change(steps, {("c", "clustermesh-ca-bundle"): change.after}) is None


@pytest.mark.parametrize(
    ("now", "patch"),
    [
        ({"x": "new"}, {"data": {"x": "old", "y": None}}),
        ({"x": "new", "y": "made"}, {"data": {"x": "old", "y": None}}),
        ({"x": "old"}, {}),
        ({"x": "somebody's"}, {}),
    ],
)
def test_only_what_is_still_as_we_wrote_it_is_put_back(now: dict[str, str], patch: dict[str, Any]) -> None:
    change = LinkChange("c", "o", {"data": {"x": "old"}}, {"data": {"x": "new", "y": "made"}})
    expected = {"data": {n: v for n, v in patch.get("data", {}).items() if now.get(n) != v}} if patch else {}
    assert restoring_patch(change, {"data": now}) == expected


@pytest.mark.parametrize("there", [None, *PEERING_OBJECTS])
def test_a_cluster_that_lacks_peering_objects_forgets_a_peer_in_those_it_has(there: str | None) -> None:
    """`disable` may have removed some of them; connecting needs all."""
    objects = {("c", name): {"data": {}} if name == there else None for name in PEERING_OBJECTS}
    assert {change.name for change in plan_changes(parting_steps([("c", "south")]), objects)} <= {there}
