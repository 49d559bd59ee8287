# SPDX-License-Identifier: Apache-2.0
"""One life of one program: its clock, its wires, what it may write, and how it ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextvars import copy_context
from pathlib import Path
from typing import Any, Final

from kube.client import KubeClient
from kvstore.clientconfig import ClientConfig
from kvstore.memoryserver import MemoryServer
from kvstore.options import Options
from meshpeer.outside import Outside
from tests.simulation.clock import EPOCH_S, ProcessClock, SimulatedBlocking
from tests.simulation.credentials import Credentials
from tests.simulation.kube_server import KubeLink, KubeServer
from tests.simulation.loop import PROCESS, SimulatedLoop
from tests.simulation.machine import Writes
from tests.simulation.store_link import Access, LinkedStore, StoreLink, grant_for
from tests.simulation.wire import Wire

KUBE_ADDRESS: Final = "172.18.0.2"
"""What every name is resolved to: only that of the API server is asked for."""


class Process:
    """Everything a program is given. `ended` is why it ended by itself; empty while it runs or when it was killed."""

    def __init__(
        self,
        name: str,
        loop: SimulatedLoop,
        wire: Wire,
        credentials: Credentials,
        rng: random.Random,
        wall_error_s: float = 0.0,
    ) -> None:
        self.name, self._loop, self._wire, self._credentials, self.rng = name, loop, wire, credentials, rng
        self.clock = ProcessClock(loop, wall_error_s)
        self.writes = Writes(self.kill, loop.reached)
        self.links: list[tuple[str, StoreLink | KubeLink]] = []
        self._directories: dict[Path, asyncio.Event] = {}
        self.is_alive = True
        self.ended = ""
        self.task: asyncio.Task[None] | None = None

    def start(self, main: Coroutine[Any, Any, None]) -> None:
        context = copy_context()
        context.run(PROCESS.set, self.name)
        self.task = self._loop.create_task(self._run(main), name=self.name, context=context)

    def kill(self) -> None:
        """From now on nothing that it does has an effect. What it does still is to fall over its own feet."""
        self.is_alive = self.writes.is_alive = False
        for _, link in self.links:
            link.cut(is_up=False)
        self._loop.thaw(self.name)
        if self.task is not None:
            self.task.cancel()

    def kill_after(self, turns: int) -> None:
        """It is gone after so many more turns of the loop: between two awaits, wherever it is then."""

        def end() -> None:
            if self.is_alive:
                self._loop.reached["crash between two turns"] += 1
                self.kill()

        self._loop.light_fuse(self.name, turns, end)

    def leap(self, seconds: float) -> None:
        """The machine stood still for so long without the process noticing: its time jumps, and its timers are due."""
        self.clock.leapt_s += seconds
        self._loop.leap(self.name, seconds)

    def touched(self, directory: Path) -> None:
        """Files of the directory changed."""
        if directory in self._directories:
            self._directories[directory].set()

    def kube(self, cluster: str, server: KubeServer) -> KubeClient:
        target = f"kube.{cluster}"
        link = KubeLink(
            server, SimulatedBlocking(self._loop, self.clock, self.rng), self._wire.delays(self.name, target)
        )
        self._connect(target, link)
        return KubeClient(link)  # type: ignore[arg-type]  # a link stands for the transport

    def outside(self, find_store: Callable[[str], tuple[MemoryServer, Access]]) -> Outside:
        """`find_store` gives the server of a host, and what the process may do there."""

        def dial(config: ClientConfig, options: Options | None = None, resolve: object = None) -> LinkedStore:
            del options, resolve
            host = config.endpoints[0].host
            server, access = find_store(host)
            owner = host.partition(".")[2]
            link = StoreLink(
                server,
                self._wire.delays(self.name, host),
                grant_for(access, owner),
                self.writes,
                lambda: self._credentials.refusal(
                    config, owner, self.name.partition("-")[0], EPOCH_S + self._loop.time()
                ),
            )
            self._connect(host, link)
            return LinkedStore(link, Options(rng=self.rng))

        return Outside(
            rng=self.rng,
            dial=dial,  # type: ignore[arg-type]  # the twin of the client
            watch=self._watch,
            resolve=lambda _name: (KUBE_ADDRESS,),
            cpu_s=lambda: 0.0,
        )

    async def _watch(self, directory: Path) -> AsyncIterator[None]:
        changed = self._directories[directory] = asyncio.Event()
        yield
        while True:
            await changed.wait()
            changed.clear()
            yield

    def _connect(self, to: str, link: StoreLink | KubeLink) -> None:
        if not self.is_alive or self._wire.is_cut(self.name, to):
            link.cut(is_up=False)
        self.links.append((to, link))

    async def _run(self, main: Coroutine[Any, Any, None]) -> None:
        try:
            await main
        except asyncio.CancelledError:
            if self.is_alive:
                self.ended = "cancelled itself"
            raise
        except BaseException as exc:
            if self.is_alive:
                self.ended = _why(exc)
            return
        if self.is_alive:
            self.ended = "returned"


def _why(exc: BaseException) -> str:
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return repr(exc)
