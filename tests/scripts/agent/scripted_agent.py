# SPDX-License-Identifier: Apache-2.0
"""The agent of scripts: its real features on memory maps and a manual clock, and sources that list when a script says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from agent_world import Fed

from agent.backendhealth.feature import BackendHealthFeature
from agent.bootstrap import Facts
from agent.core import Core
from agent.datapath.maps import Maps
from agent.datapath.memory import MemoryMaps, memory_maps
from agent.datapath.pod_interfaces import EndpointInterface, LinkSighting
from agent.datapath.rtnetlink import LinkChanges
from agent.endpoints.feature import EndpointsFeature
from agent.feature import Feature
from agent.identity.feature import IdentityFeature
from agent.ipcache.feature import IpcacheFeature
from agent.loadbalancer.feature import LoadBalancerFeature
from agent.loadbalancer.source import KubernetesSource
from agent.machine import MemoryHost
from agent.mesh.ingest import Writers
from agent.mesh.networks import Networks
from agent.mesh.rejections import Rejections
from agent.node_agent import NodeAgent, make_policy
from agent.nodes.feature import NodesFeature
from agent.tables import AgentDB, Node, NodeAddress
from meshkit.wake import Wake
from meshmodel.names import ClusterId, ClusterName
from tests.support.script import ScriptError

FACTS: Final = Facts(ClusterName("north"), ClusterId(1), 255, "n1", "172.18.0.2", ("10.1.0.0/24",))
STEP_S: Final = 1.0


class Machine(MemoryHost):
    """A node whose maps and interfaces outlive agents."""

    def __init__(self) -> None:
        super().__init__()
        self.maps: MemoryMaps = memory_maps()
        self.interfaces: dict[str, int] = {}
        self.plugged = Wake()

    def open(self) -> Maps:
        return self.maps

    def sight(self, asked: Sequence[tuple[str, int]]) -> Sequence[LinkSighting]:
        """Interfaces of the script, whose pods answer nothing."""
        return [self._sight(address, known) for address, known in asked]

    async def changes(self) -> AsyncIterator[LinkChanges]:
        """Whatever the script plugs in or out."""
        while True:
            await self.plugged.wait(self.plugged.count)
            yield LinkChanges(is_all=True)

    def _sight(self, address: str, known: int) -> LinkSighting:
        index = self.interfaces.get(address)
        if index is None:
            return LinkSighting(is_there=known in self.interfaces.values())
        return LinkSighting(EndpointInterface(index, f"02:00:00:00:00:{index:02x}", f"02:01:00:00:00:{index:02x}"))


class Sources(Feature):
    """Stands for stores and Kubernetes: names what a script wants to be waited for."""

    name = "sources"

    def __init__(self, db: AgentDB, names: Sequence[str]) -> None:
        self._db, self._names = db, names
        self.listed: dict[str, Callable[[], None]] = {}

    def expect(self) -> None:
        for name in self._names:
            self.listed[name] = find_table(self._db, name).expect("script")


class Agent:
    """One life of the agent on a machine, and what clusters and Kubernetes told it."""

    def __init__(self, core: Core, machine: Machine, sources: Sequence[str]) -> None:
        self.core, self.db, self.machine = core, core.db, machine
        self.nodes, self.identities, self.ipcache = NodesFeature(core), IdentityFeature(core), IpcacheFeature(core)
        self.balancer = LoadBalancerFeature(core)
        self.policy = make_policy(core, self.identities, self.ipcache)
        self.sources = Sources(core.db, sources)
        self.health, endpoints = BackendHealthFeature(core), EndpointsFeature(core)
        features = (
            self.nodes,
            self.identities,
            self.ipcache,
            self.balancer,
            self.policy,
            endpoints,
            self.health,
            self.sources,
        )
        self._agent = NodeAgent(core, features)
        self.kubernetes = KubernetesSource(core.db, self.balancer.writer, core.clock)
        self.writers = Writers(self.balancer.writer, self.ipcache.writer, self.identities.writer, self.nodes.writer)
        self.networks, self.rejections = Networks(core.db.own), Rejections(core.clock)
        self.clusters: dict[str, Fed] = {}

    def start(self) -> None:
        self._task = asyncio.ensure_future(self._agent.run(_serve_nobody))
        node = Node(FACTS.cluster, FACTS.cluster_id, "n1", (NodeAddress("InternalIP", FACTS.node_ip),), FACTS.pod_cidrs)
        self.networks.set_node(node)
        with self.db.write():
            self.nodes.writer.set_node(node)
            self.ipcache.writer.set_node(node)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    def check(self) -> None:
        """It still runs. Raises: whatever ended it."""
        if self._task.done():
            raise self._task.exception() or AssertionError("the agent ended")

    def connect(self, name: str, cluster_id: int) -> None:
        rest = (self.db, self.writers, self.networks, self.rejections, self.core.clock)
        self.clusters[name] = Fed(name, cluster_id, *rest)


class AtOnce(ThreadPoolExecutor):
    """Calls that would block run at once: which thread ends first is not what scripts are about."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as exc:
            future.set_exception(exc)
        return future


async def _serve_nobody() -> None:
    await asyncio.get_running_loop().create_future()


def find_table(db: AgentDB, name: str) -> Any:
    """Raises: ScriptError naming the tables there are."""
    for table in db.tables:
        if table.name == name:
            return table
    raise ScriptError(f"no table {name}; there are: {', '.join(sorted(t.name for t in db.tables))}")
