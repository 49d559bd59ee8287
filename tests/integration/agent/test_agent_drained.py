# SPDX-License-Identifier: Apache-2.0
"""`clustermesh drain` and `undrain` on the embedded API server, and the agent's tables that follow them."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

import kube.resource as k
from agent.loadbalancer.drained import DrainedSource, drained_problems
from agent.loadbalancer.writer import LoadBalancerWriter
from agent.tables import Address, AgentDB, Backend, FrontendKey, Service, ServicePort
from clustermesh_cli.commands.drain import drain, undrain
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, CommandRefusedError
from kube.client import KubeClient, in_thread
from meshapi.installed import CONFIG_MAP, DRAINED, PEERS_SECRET
from meshmodel.names import ClusterId, ClusterName, ServiceName
from tests.integration.apiserver.apiserver_world import serve_kubernetes, until

NAMESPACE = "kube-system"
NAME, KEY = ServiceName("t", "s"), FrontendKey("10.96.0.1", 80, "TCP")
NORTH, SOUTH = ClusterName("north"), ClusterName("south")


def _object(kind: str, name: str, **fields: object) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}, **fields}


def _peers(text: str) -> dict[str, object]:
    metadata = {"name": PEERS_SECRET, "namespace": NAMESPACE, "annotations": {"mesh.clustermesh.io/peers": text}}
    return {**_object("Secret", PEERS_SECRET), "metadata": metadata}


class World:
    """A cluster, north, with the peer south, and what an agent there makes of both clusters' backends."""

    def __init__(self, client: KubeClient) -> None:
        self.client = client
        self.db = AgentDB(NORTH, ClusterId(1))
        self.writer = LoadBalancerWriter(self.db)
        with self.db.write():
            service = Service(NAME, (Address(KEY.address),), (ServicePort("", 80, "TCP"),), is_global=True)
            self.writer.set_service(service)
            self.writer.set_backends(NAME, NORTH, ClusterId(1), [Backend("10.1.0.1", 80, "TCP")], 0.0)
            self.writer.set_backends(NAME, SOUTH, ClusterId(2), [Backend("10.2.0.1", 80, "TCP")], 0.0)
        self.source = DrainedSource(self.db, self.writer)
        self.synced = asyncio.Event()

    def chosen(self) -> set[str]:
        row = self.db.frontends.get(KEY)
        assert row is not None
        return {target.address for target in row.chosen}

    async def run(self, verb: object, cluster: str, wait_s: float | None = None) -> str:
        out = io.StringIO()
        assert callable(verb)
        await in_thread(verb, {"": self.client}, NAMESPACE, cluster, Console(plain=True, stream=out), wait_s)
        return out.getvalue()


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with serve_kubernetes(tmp_path) as (_, client):
        data = {"cluster-name": "north", "cluster-id": "1"}
        await in_thread(client.apply, k.CONFIG_MAPS, _object("ConfigMap", CONFIG_MAP, data=data))
        await in_thread(client.create, k.SECRETS, _peers('{"south": {"id": 2}}'))
        made = World(client)
        task = asyncio.ensure_future(made.source.run(client, NAMESPACE, made.synced.set))
        try:
            await asyncio.wait_for(made.synced.wait(), 10)
            yield made
        finally:
            task.cancel()
            await asyncio.wait([task])


@pytest.mark.runbook("peer-drained")
async def test_new_connections_leave_a_drained_cluster_and_come_back(world: World) -> None:
    assert world.chosen() == {"10.1.0.1", "10.2.0.1"}
    assert "south is drained in north" in await world.run(drain, "south")
    await until(lambda: world.chosen() == {"10.1.0.1"})
    assert "undrain south" in drained_problems(world.db.drained)[0]
    assert "before" in await world.run(drain, "south")
    await world.run(drain, "north")
    await until(lambda: world.chosen() == {"10.1.0.1", "10.2.0.1"}, why=lambda: world.db.drained)
    assert "again" in await world.run(undrain, "south")
    await until(lambda: world.chosen() == {"10.2.0.1"})
    await world.run(undrain, "north")
    await until(lambda: world.chosen() == {"10.1.0.1", "10.2.0.1"})
    assert "was not drained" in await world.run(undrain, "south")


async def test_the_configmap_that_is_gone_drains_nobody_and_an_odd_name_is_told(world: World) -> None:
    await world.run(drain, "south")
    await in_thread(world.client.patch_merge, k.CONFIG_MAPS, DRAINED, {"data": {"So_uth": "x"}}, NAMESPACE)
    await until(lambda: bool(world.source.problems))
    assert "it drains nothing" in world.source.problems[0]
    assert world.chosen() == {"10.1.0.1"}
    await in_thread(world.client.delete, k.CONFIG_MAPS, DRAINED, NAMESPACE)
    await until(lambda: not world.db.drained and not world.source.problems)


async def test_a_stranger_is_refused_and_an_agent_that_does_not_answer_is_named(world: World) -> None:
    for verb in (drain, undrain):
        with pytest.raises(CommandRefusedError, match=r"neither north itself nor a peer of it.*peers: south"):
            await world.run(verb, "nowhere")
    assert not world.db.drained
    with pytest.raises(CommandError, match="written as drained, and not heard of yet by"):
        await world.run(drain, "south", wait_s=0.0)
    await until(lambda: world.db.drained == {"south"})


async def test_of_several_clusters_all_are_written_before_anybody_is_waited_for(world: World, tmp_path: Path) -> None:
    """The second does not know the name: nothing is written. It does: one that is late keeps the other from nothing."""
    (tmp_path / "other").mkdir()
    async with serve_kubernetes(tmp_path / "other") as (_, other):
        config = _object("ConfigMap", CONFIG_MAP, data={"cluster-name": "west", "cluster-id": "3"})
        await in_thread(other.apply, k.CONFIG_MAPS, config)
        both = {"north": world.client, "west": other}
        console = Console(plain=True, stream=io.StringIO())
        await world.run(drain, "south")
        with pytest.raises(CommandRefusedError, match="south is neither west itself nor a peer of it"):
            await in_thread(undrain, both, NAMESPACE, "south", console, None)
        assert await _drained(world.client) == ["south"]
        await in_thread(other.create, k.SECRETS, _peers('{"south": {"id": 2}}'))
        with pytest.raises(CommandError, match=r"heard of yet by: north: .*; west: .*"):
            await in_thread(drain, both, NAMESPACE, "south", console, 0.0)
        assert await _drained(other) == ["south"]


async def _drained(client: KubeClient) -> list[str]:
    found = await in_thread(client.get, k.CONFIG_MAPS, DRAINED, NAMESPACE)
    return list((found or {}).get("data") or {})
