# SPDX-License-Identifier: Apache-2.0
"""One life of an agent and of an apiserver: the programs' own composition, on a simulated outside."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from agent.bootstrap import learn
from agent.core import Core, open_core
from agent.feature import Feature
from agent.node_agent import NodeAgent, make_features
from agent.settings import AgentSettings
from clustermesh_apiserver.apiserver import Apiserver
from clustermesh_apiserver.run import make_apiserver, run
from clustermesh_apiserver.settings import ApiserverSettings, SourceChoice
from kube.client import KubeClient
from meshkit.reconciler import Reconciler
from meshpeer.outside import Outside
from tests.simulation.machine import Machine, SimulatedHost
from tests.simulation.process import Process

SYNC_TIMEOUT_S: Final = 20.0
IDENTITY_GRACE_S: Final = 60.0
LEASE_TTL_S: Final = 60.0
STORE_MIB: Final = 1
"""So small a store that a peer may have 256 KiB of it: a flood reaches that."""


class AgentProcess:
    """`core` is None until the agent has learnt of its cluster and opened its maps."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.core: Core | None = None
        self.features: Mapping[str, Feature] = {}
        self.reconcilers: Mapping[str, Reconciler[Any, Any]] = {}
        self.node_agent: NodeAgent | None = None

    def start(self, machine: Machine, client: KubeClient, outside: Outside, node: str, directory: Path) -> None:
        settings = AgentSettings(
            node_name=node,
            clustermesh_config=directory / "peers",
            local_etcd_config=str(directory / "own-store.yaml"),
            socket=directory / "agent.sock",
            sync_timeout_s=SYNC_TIMEOUT_S,
        )
        self.process.start(self._main(machine, client, outside, settings))

    async def _main(self, machine: Machine, client: KubeClient, outside: Outside, settings: AgentSettings) -> None:
        process = self.process
        facts = await learn(settings, client, process.clock)
        host = SimulatedHost(machine, process.writes)
        core = await open_core(settings, facts, client, host, process.clock, outside=outside)
        features = make_features(core)
        agent = NodeAgent(core, features)
        self.features = {feature.name: feature for feature in features}
        self.reconcilers, self.node_agent, self.core = agent.reconcilers, agent, core
        await agent.run(_serve_nobody)


class SimulatedFacade:
    """Stands for the facade: peers' links are read-only already."""

    def __init__(self) -> None:
        self.facade = self
        self.problems: list[str] = []
        self.not_after_s = 0.0

    def clients(self) -> list[object]:
        return []

    async def run(self, _store: object) -> None:
        await asyncio.get_running_loop().create_future()


class ApiserverProcess:
    """`apiserver` is the program's parts."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.apiserver: Apiserver | None = None

    def start(self, name: str, number: int, client: KubeClient, outside: Outside, directory: Path) -> None:
        settings = ApiserverSettings(
            cluster_name=name,
            cluster_id=number,
            source=SourceChoice.PODS,
            etcd_config=str(directory / "own-store.yaml"),
            data_dir=directory / "data",
            mirror=True,
            mirror_config_dir=directory / "mirror",
            identity_grace=IDENTITY_GRACE_S,
            lease_ttl=LEASE_TTL_S,
            etcd_quota_mib=STORE_MIB,
        )
        self.process.start(self._main(settings, client, outside))

    async def _main(self, settings: ApiserverSettings, client: KubeClient, outside: Outside) -> None:
        self.apiserver = make_apiserver(settings, client, self.process.clock, outside)
        self.apiserver.facade_server = SimulatedFacade()  # type: ignore[assignment]
        await run(self.apiserver, lambda _apiserver: _serve_nobody())


async def _serve_nobody() -> None:
    await asyncio.get_running_loop().create_future()
