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
from tests.simulation.credentials import Credentials
from tests.simulation.loop import PROCESS, SimulatedLoop
from tests.simulation.process import Process
from tests.simulation.wire import Wire

CLUSTER_NAMES: Final = ("north", "south", "east", "west", "middle", "far")
RESTART_S: Final = (0.1, 8.0)


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
        self.faults: list[str] = []
        self.deaf: set[frozenset[str]] = set()
        self._streams: list[tuple[str, random.Random]] = []
        self.wire, self.credentials = Wire(self.rng_of("wire")), Credentials()
        self.pauses = self.rng_of("pauses")
        self.folder = Path(tempfile.mkdtemp(prefix="mesh-simulation-"))
        self.wall_errors_s: dict[str, float] = {}
        self._lives = 0
        self.clusters = {
            name: Cluster(
                name,
                i + 1,
                shape.nodes,
                self.loop,
                self.rng_of(f"controllers {name}"),
                self.folder / name,
                self.credentials,
            )
            for i, name in enumerate(CLUSTER_NAMES[: shape.clusters])
        }
        self._nodes = [(cluster, node) for cluster in self.clusters.values() for node in cluster.nodes.values()]
        self.loop.reachable = self._is_reachable

    def __enter__(self) -> World:
        self.occupy()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rng_of(self, purpose: str) -> random.Random:
        """Each purpose draws from its own stream, so that one more draw here changes nothing there."""
        rng = random.Random(f"{self.seed} {purpose}")
        self._streams.append((purpose, rng))
        return rng

    def reseed(self, seed: int) -> None:
        """From now on chance is that of another seed, for what runs already too."""
        self.seed = seed
        for purpose, rng in self._streams:
            rng.seed(f"{seed} {purpose}")

    def occupy(self) -> None:
        """Code that asks for the event loop is given this world's, and programs log nothing."""
        logging.disable(logging.CRITICAL)
        asyncio.set_event_loop(self.loop)

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
        """The process is gone at this instant, whatever it was doing. Kubernetes starts it again after some seconds."""
        for cluster in self.clusters.values():
            if cluster.apiserver is not None and cluster.apiserver.process.name == name:
                cluster.apiserver.process.kill()
                cluster.apiserver = None
                self.loop.call_later(self.pauses.uniform(*RESTART_S), self.start_apiserver, cluster)
            for node in cluster.nodes.values():
                if node.agent is not None and node.agent.process.name == name:
                    node.agent.process.kill()
                    node.agent = None
                    self.loop.call_later(self.pauses.uniform(*RESTART_S), self.start_agent, cluster, node)

    def processes(self) -> dict[str, Process]:
        return {process.name: process for c in self.clusters.values() for process in c.processes()}

    def nodes(self) -> list[tuple[Cluster, Node]]:
        return self._nodes

    def set_cut(self, source: str, target: str, *, is_cut: bool) -> None:
        """A process does not reach a store or an API server, or does again."""
        self.wire.set_cut(source, target, is_cut=is_cut)
        process = self.processes().get(source)
        for to, link in process.links if process is not None else ():
            if to == target:
                link.cut(is_up=not is_cut)

    def jump(self, name: str, seconds: float) -> None:
        """The wall clock of the process's machine is put forward, or back."""
        self.wall_errors_s[name] = self.wall_errors_s.get(name, 0.0) + seconds
        process = self.processes().get(name)
        if process is not None:
            process.clock.wall_error_s = self.wall_errors_s[name]

    def heal(self) -> None:
        """Every fault that goes on is over, and everybody follows everybody."""
        self.wire.heal()
        self.deaf.clear()
        self.credentials.settle()
        for cluster in self.clusters.values():
            cluster.kube.is_up, cluster.kube.lag_s = True, {}
            if not cluster.store.is_up:
                cluster.store.start()
            cluster.write_credentials()
            for other in self.clusters:
                if other != cluster.name and other not in cluster.peers:
                    cluster.set_peer(other, is_peer=True)
            for node in cluster.nodes.values():
                if node.machine.is_short and node.agent is not None:
                    self.crash(node.name)  # sizes are settings: whoever changes one starts the agent again
                node.machine.end_faults()
        self.wall_errors_s.clear()
        for name, process in self.processes().items():
            process.clock.wall_error_s = 0.0
            self.loop.thaw(name)
            process.writes.left = -1
            for _, link in process.links:
                link.lose_answers = 0
                link.heal()

    def take_faults(self) -> list[str]:
        """What was noticed since the last call."""
        found, self.faults = self.faults, []
        return found

    def build_agent(self, cluster: Cluster, node: Node) -> Process:
        """An agent on this new machine, beside those that run."""
        cluster.start_agent(node, self._make_process, self._store_of)
        assert node.agent is not None
        return node.agent.process

    def build_apiserver(self, cluster: Cluster, store: MemoryServer) -> Process:
        """An apiserver on this new store, beside the one that runs."""
        kept = cluster.apiserver
        cluster.start_apiserver(
            self._make_process, lambda host: store if host.startswith("own.") else self._store_of(host)
        )
        twin, cluster.apiserver = cluster.apiserver, kept
        assert twin is not None
        return twin.process

    def trace(self) -> str:
        """The state as text, the same for the same history."""
        lines = [f"{self.now():.6f} {self.loop.steps}"]
        for cluster in self.clusters.values():
            lines += [f"{key!r}={entry.value!r}" for key, entry in sorted(cluster.store.entries.items())]
            for node in cluster.nodes.values():
                maps = node.machine.maps
                for name in ("services", "backends", "ipcache", "policy", "endpoints_by_address"):
                    lines += [f"{node.name} {key} {value}" for key, value in sorted(getattr(maps, name).items())]
        return "\n".join(lines)

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
        self.occupy()
        for process in self.processes().values():
            process.kill()
        self.loop.errors.clear()
        self.loop.run_until_complete(_end_tasks())
        self.loop.end_callers()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        self.loop.close()
        logging.disable(logging.NOTSET)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _make_process(self, name: str) -> Process:
        self._lives += 1
        rng = self.rng_of(f"{name} {self._lives}")
        return Process(name, self.loop, self.wire, self.credentials, rng, self.wall_errors_s.get(name, 0.0))

    def _store_of(self, host: str) -> MemoryServer:
        return self.clusters[host.partition(".")[2]].store

    def _is_reachable(self, address: str) -> bool:
        """Whether a node's packets reach this one; who asks is the running process."""
        process = PROCESS.get()
        for cluster, node in self._nodes:
            if node.ip == address:
                return not self.deaf or not any(
                    process.startswith(a) and cluster.name == b for a, b in self._deaf_pairs()
                )
        return False

    def _deaf_pairs(self) -> list[tuple[str, str]]:
        pairs = [tuple(sorted(pair)) for pair in self.deaf]
        return [(a, b) for a, b in pairs] + [(b, a) for a, b in pairs]


async def _end_tasks() -> None:
    for _ in range(20):
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        if not tasks:
            return
        for task in sorted(tasks, key=hash):
            task.cancel()
        await asyncio.wait(tasks, timeout=30.0)


Main = Callable[[World], Coroutine[Any, Any, None]]
