# SPDX-License-Identifier: Apache-2.0
"""connect and disconnect of three clusters that die after any of their writes: the next run ends where it should.

Everything runs against the scripted API of the other tests and against the embedded API server, which must agree.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol, cast

import pytest
import pytest_asyncio
from connect_world import IDS, NS, KilledError, WritableApi

import kube.resource as k
from clustermesh_cli.commands.connect import ConnectOptions, connect
from clustermesh_cli.commands.disconnect import disconnect_contexts, disconnect_peer
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandRefusedError
from clustermesh_cli.link_proof import Patience
from clustermesh_cli.plan.connection_mode import Mode
from clustermesh_cli.plan.link_change import PEERING_OBJECTS, PEERING_SECRETS
from kube.client import KubeClient, in_thread
from kube.transport import Transport
from tests.integration.apiserver.apiserver_world import serve_kubernetes

NAMES = ("north", "south", "west")
RESOURCES = {"configmaps": k.CONFIG_MAPS, "secrets": k.SECRETS, "services": k.SERVICES}
KINDS = {k.CONFIG_MAPS: "ConfigMap", k.SECRETS: "Secret", k.SERVICES: "Service"}
SYSTEM = "kube-system"
State = Mapping[tuple[str, str], Any]


class Deaths:
    """How many writes all clusters took; after the one of number `after` the command is dead."""

    def __init__(self) -> None:
        self.writes, self.after = 0, 0

    def note(self) -> None:
        self.writes += 1
        if self.writes == self.after:
            raise KilledError


class DyingTransport:
    """One cluster's API, asked by a command that dies when its time has come: the write was made."""

    def __init__(self, inner: Any, deaths: Deaths) -> None:
        self._inner, self._deaths, self.server = inner, deaths, inner.server

    def request(self, method: str, path: str, **given: Any) -> tuple[int, bytes]:
        status, body = self._inner.request(method, path, **given)
        if method != "GET" and status < 300:
            self._deaths.note()
        return status, body


class Clusters(Protocol):
    """Three clusters with the mesh enabled, and none connected after `reset`. Of all writes every `stride`th is died after."""

    stride: int

    def transport(self, name: str) -> Any: ...

    def reset(self) -> None: ...


def initial(name: str) -> dict[str, Any]:
    return {path: deepcopy(answer) for path, answer in WritableApi(name).answers.items() if isinstance(answer, dict)}


class Scripted:
    stride = 1

    def __init__(self) -> None:
        self._initial = {name: initial(name) for name in NAMES}
        self._apis = {name: WritableApi(name) for name in NAMES}

    def transport(self, name: str) -> Any:
        return self._apis[name]

    def reset(self) -> None:
        for name, api in self._apis.items():
            api.answers = deepcopy(self._initial[name])


class Embedded:
    stride = 7

    def __init__(self, clients: Mapping[str, KubeClient]) -> None:
        self._clients = clients
        self._initial = {name: list(_objects(initial(name))) for name in NAMES}
        for name, client in clients.items():
            node = initial(name)["/api/v1/nodes"]["items"][0]
            client.create(k.NODES, {"apiVersion": "v1", "kind": "Node", **node})
            client.patch_status(k.NODES, node["metadata"]["name"], node["status"])
            for resource, obj in self._initial[name]:
                client.create(resource, obj)

    def transport(self, name: str) -> Any:
        return self._clients[name].transport

    def reset(self) -> None:
        for name, client in self._clients.items():
            for resource, obj in self._initial[name]:
                if obj["metadata"]["name"] in PEERING_OBJECTS:
                    client.replace(resource, obj)


def _objects(answers: Mapping[str, Any]) -> Any:
    """The objects of our namespace as they are created."""
    for path, answer in answers.items():
        plural, _, name = path.removeprefix(f"{NS}/").partition("/")
        if plural in RESOURCES and name and "/" not in name:
            resource = RESOURCES[plural]
            body = {key: value for key, value in answer.items() if key != "metadata"}
            yield resource, {"kind": KINDS[resource], "metadata": {"name": name, "namespace": SYSTEM}, **body}


@pytest_asyncio.fixture(scope="module", params=["scripted", "embedded"])
async def clusters(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Clusters]:
    if request.param == "scripted":
        yield Scripted()
        return
    async with AsyncExitStack() as stack:
        clients = {}
        for name in NAMES:
            folder: Path = tmp_path_factory.mktemp(name)
            _, clients[name] = await stack.enter_async_context(serve_kubernetes(folder))
        yield await in_thread(Embedded, clients)


class Mesh:
    """What an operator does with the three clusters, and what is there afterwards."""

    def __init__(self, clusters: Clusters) -> None:
        clusters.reset()
        self.deaths = Deaths()
        self.clients = {
            name: KubeClient(cast(Transport, DyingTransport(clusters.transport(name), self.deaths)), context=name)
            for name in NAMES
        }
        self.console = Console(plain=True, stream=io.StringIO())

    def of(self, *names: str) -> dict[str, KubeClient]:
        return {name: self.clients[name] for name in names}

    def connect(self, *names: str) -> None:
        networks = {name: (f"10.{IDS[name]}.0.0/16",) for name in names}
        options = ConnectOptions(Mode.MESH, is_verified=False, waits=False, networks=networks)
        connect(self.of(*names), SYSTEM, options, self.console, Patience(0.0))

    def part(self, first: str, *others: str) -> None:
        """The first and each of the others do not know each other, if they did."""
        for other in others:
            with suppress(CommandRefusedError):
                disconnect_contexts(self.of(first, other), SYSTEM, self.console)

    def forget(self, name: str, peer: str) -> None:
        """The cluster does not know the peer, if it did."""
        with suppress(CommandRefusedError):
            disconnect_peer(self.clients[name], SYSTEM, name, peer, self.console)

    def writes_of(self, act: Callable[[], None]) -> int:
        before = self.deaths.writes
        act()
        return self.deaths.writes - before

    def kill(self, act: Callable[[], None], number: int) -> None:
        """The command dies after its write of this number."""
        self.deaths.after = self.deaths.writes + number
        with pytest.raises(KilledError):
            act()
        self.deaths.after = 0

    def state(self) -> State:
        """What each peering object holds: its data and our notes."""
        found = {}
        for name, client in self.clients.items():
            for kept in PEERING_OBJECTS:
                obj = client.get(k.SECRETS if kept in PEERING_SECRETS else k.CONFIG_MAPS, kept, SYSTEM)
                assert obj is not None
                notes = obj["metadata"].get("annotations") or {}
                found[name, kept] = (obj.get("data") or {}, {key: value for key, value in notes.items() if value})
        return found


def interrupted(clusters: Clusters, before: Callable[[Mesh], None], act: Callable[[Mesh], None]) -> Any:
    """A mesh after `before`, for each write of `act` one in which it died there."""
    whole = Mesh(clusters)
    before(whole)
    writes = whole.writes_of(lambda: act(whole))
    assert writes >= 4
    for number in range(1, writes + 1, clusters.stride):
        mesh = Mesh(clusters)
        before(mesh)
        mesh.kill(lambda mesh=mesh: act(mesh), number)  # type: ignore[misc]
        yield number, mesh


def nothing(_mesh: Mesh) -> None:
    """Nobody is connected."""


def whole(mesh: Mesh) -> None:
    mesh.connect(*NAMES)


def pair(mesh: Mesh) -> None:
    mesh.connect("north", "south")


def states(clusters: Clusters) -> tuple[State, State, State]:
    """Of nobody, of the pair of north and south, and of all."""
    found = []
    for act in (nothing, pair, whole):
        mesh = Mesh(clusters)
        act(mesh)
        found.append(mesh.state())
    return found[0], found[1], found[2]


@pytest.mark.parametrize("before", [nothing, pair])
async def test_a_mesh_that_died_while_it_was_made_is_completed_from_any_cluster(
    clusters: Clusters, before: Callable[[Mesh], None]
) -> None:
    def run() -> None:
        _, _, all_connected = states(clusters)
        for number, mesh in interrupted(clusters, before, whole):
            again = [*NAMES[number % 3 :], *NAMES[: number % 3]]
            mesh.connect(*again)
            assert mesh.state() == all_connected
            assert mesh.writes_of(lambda mesh=mesh, again=again: mesh.connect(*again)) == 0  # type: ignore[misc]

    await in_thread(run)


async def test_a_mesh_that_died_while_it_was_made_is_cleaned_up(clusters: Clusters) -> None:
    def run() -> None:
        nobody, _, _ = states(clusters)
        for _, mesh in interrupted(clusters, nothing, whole):
            mesh.part("north", "south", "west")
            mesh.part("south", "west")
            assert mesh.state() == nobody

    await in_thread(run)


async def test_a_third_cluster_whose_joining_died_leaves_the_pair_as_it_was(clusters: Clusters) -> None:
    def run() -> None:
        _, connected_pair, _ = states(clusters)
        for _, mesh in interrupted(clusters, pair, whole):
            mesh.part("west", "north", "south")
            assert mesh.state() == connected_pair

    await in_thread(run)


async def test_one_is_removed_while_it_is_down_by_commands_that_die_and_joins_again(clusters: Clusters) -> None:
    def run() -> None:
        _, _, all_connected = states(clusters)

        def without_south(mesh: Mesh) -> None:
            whole(mesh)
            mesh.forget("south", "west")

        for _, mesh in interrupted(clusters, without_south, lambda mesh: mesh.forget("north", "west")):
            mesh.forget("north", "west")
            seen = mesh.state()
            assert not any("west" in str(seen[name, kept]) for name in ("north", "south") for kept in PEERING_OBJECTS)
            mesh.connect("west", "north", "south")
            assert mesh.state() == all_connected

    await in_thread(run)
