# SPDX-License-Identifier: Apache-2.0
"""A mesh on one loop: clusters, the wire between them, and what checkers look at."""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kvstore.memoryserver import MemoryServer
from tests.simulation.cluster import Cluster, Node
from tests.simulation.loop import SimulatedLoop
from tests.simulation.process import Process
from tests.simulation.wire import Wire

CLUSTER_NAMES: Final = ("north", "south", "east", "west", "middle", "far")
RESTART_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Shape:
    """How many clusters, and nodes in each."""

    clusters: int = 2
    nodes: int = 1


class World:
    """Use as a context: at its end nothing of it runs any more."""

    def __init__(self, seed: int, shape: Shape = Shape()) -> None:
        self.seed, self.shape = seed, shape
        self.loop = SimulatedLoop()
        self.wire = Wire(self.rng_of("wire"))
        self.log: list[str] = []
        self.faults: list[str] = []
        self._folder = Path(tempfile.mkdtemp(prefix="mesh-simulation-"))
        self._lives = 0
        self.clusters = {
            name: Cluster(name, i + 1, shape.nodes, self.loop, self.rng_of(f"controllers {name}"), self._folder / name)
            for i, name in enumerate(CLUSTER_NAMES[: shape.clusters])
        }
        self.loop.reachable = self._is_reachable

    def __enter__(self) -> World:
        logging.disable(logging.CRITICAL)
        asyncio.set_event_loop(self.loop)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rng_of(self, purpose: str) -> random.Random:
        """Each purpose draws from its own stream, so that one more draw here changes nothing there."""
        return random.Random(f"{self.seed} {purpose}")

    def now(self) -> float:
        return self.loop.time()

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        self.loop.run_until_complete(main)

    async def begin(self) -> None:
        """Every cluster is installed, connected with every other, and its programs run."""
        for cluster in self.clusters.values():
            cluster.install()
        for cluster in self.clusters.values():
            for other in self.clusters:
                if other != cluster.name:
                    cluster.set_peer(other, is_peer=True)
            self.start_apiserver(cluster)
            for node in cluster.nodes.values():
                self.start_agent(cluster, node)

    # ---- programs

    def start_agent(self, cluster: Cluster, node: Node) -> None:
        if node.agent is None:
            cluster.start_agent(node, self._make_process, self._store_of)

    def start_apiserver(self, cluster: Cluster) -> None:
        if cluster.apiserver is None:
            cluster.start_apiserver(self._make_process, self._store_of)

    def crash(self, name: str) -> None:
        """The process is gone at this instant, whatever it was doing."""
        for cluster in self.clusters.values():
            if cluster.apiserver is not None and cluster.apiserver.process.name == name:
                cluster.apiserver.process.kill()
                cluster.apiserver = None
            for node in cluster.nodes.values():
                if node.agent is not None and node.agent.process.name == name:
                    node.agent.process.kill()
                    node.agent = None

    def processes(self) -> dict[str, Process]:
        return {process.name: process for c in self.clusters.values() for process in c.processes()}

    def nodes(self) -> list[tuple[Cluster, Node]]:
        return [(cluster, node) for cluster in self.clusters.values() for node in cluster.nodes.values()]

    def start_all(self) -> None:
        """What does not run, runs again."""
        for cluster in self.clusters.values():
            self.start_apiserver(cluster)
            for node in cluster.nodes.values():
                self.start_agent(cluster, node)

    def look_after(self) -> None:
        """Programs that ended are started again, as Kubernetes does; that they ended by themselves is a fault."""
        for name, process in self.processes().items():
            if not process.is_alive:  # died in the middle of a write
                self.crash(name)
            elif process.task is not None and process.task.done():
                self.faults.append(f"{name} ended by itself: {process.ended}")
                self.crash(name)

    def close(self) -> None:
        """Nothing runs, and what was written to disk is gone."""
        for process in self.processes().values():
            process.kill()
        self.loop.errors.clear()
        self.loop.run_until_complete(_end_tasks())
        self.loop.end_callers()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        self.loop.close()
        logging.disable(logging.NOTSET)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _make_process(self, name: str) -> Process:
        self._lives += 1
        return Process(name, self.loop, self.wire, self.rng_of(f"{name} {self._lives}"))

    def _store_of(self, host: str) -> MemoryServer:
        return self.clusters[host.partition(".")[2]].store

    def _is_reachable(self, address: str) -> bool:
        return any(node.ip == address for _, node in self.nodes())


async def _end_tasks() -> None:
    for _ in range(20):
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        if not tasks:
            return
        for task in sorted(tasks, key=hash):
            task.cancel()
        await asyncio.wait(tasks, timeout=30.0)


Main = Callable[[World], Coroutine[Any, Any, None]]
