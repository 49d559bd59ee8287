# SPDX-License-Identifier: Apache-2.0
"""`clustermesh hubble port-forward`: Hubble's API at localhost, answered by the cluster's relay through its API server.

The relay's own port needs a certificate of the cluster; here the token does, by which the command asks every program. Whoever
may connect to 127.0.0.1 of this machine sees flows while it runs, as with `kubectl port-forward`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final, TypeVar

from clustermesh_cli.console import Console
from clustermesh_cli.default_server import SERVER_VARIABLE
from clustermesh_cli.exit_code import CommandError
from clustermesh_cli.flow_sources import ADVICE, ClusterRelay
from clustermesh_cli.program_client import ProgramClient
from flows.proto import observer_pb2 as observer
from flows.relay_server import RelayServer
from flows.streams import FlowStreams
from meshkit.errors import TransientError
from meshkit.version import program_version

T = TypeVar("T")
WAITING: Final = 256
"""Answers that nobody took yet; the relay is read no further meanwhile."""


class ForwardedError(TransientError):
    """The relay could not be asked."""


def forward(programs: ProgramClient, port: int, clusters: Sequence[str], console: Console) -> None:
    """Until interrupted. Raises: CommandError where there is no relay, or the port is taken."""
    relay = ClusterRelay(programs)
    if not relay.is_installed():
        raise CommandError(f"this cluster has no relay of flows: {ADVICE}")
    try:
        asyncio.run(serve_forwarded(relay, port, clusters, console))
    except OSError as exc:
        raise CommandError(f"{exc}: choose another port with --port-forward") from exc


async def serve_forwarded(relay: ClusterRelay, port: int, clusters: Sequence[str], console: Console) -> None:
    """Until cancelled. Raises: OSError where the port is taken."""
    server = RelayServer(lambda _: ForwardedRelay(relay, clusters), program_version(), FlowStreams())
    number = server.listen_local(port)
    await server.start()
    console.line(f"Hubble's API is at localhost:{number}; {SERVER_VARIABLE}=localhost:{number} names it to hubble")
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        await server.stop()


class ForwardedRelay:
    """The relay as what a server of Hubble's API serves. `clusters` are those of requests that name none."""

    def __init__(self, relay: ClusterRelay, clusters: Sequence[str]) -> None:
        self._relay, self._clusters = relay, tuple(clusters)

    @property
    def reader(self) -> str:
        """Whoever asks here is the one user."""
        return ""

    async def flows(
        self, request: observer.GetFlowsRequest, clusters: Sequence[str]
    ) -> AsyncGenerator[observer.GetFlowsResponse, None]:
        """Read in a thread of its own, which ends with the stream. Raises: ForwardedError."""
        loop, answers = asyncio.get_running_loop(), asyncio.Queue[observer.GetFlowsResponse | Exception | None]()
        room, over = threading.Semaphore(WAITING), threading.Event()

        def put(answer: observer.GetFlowsResponse | Exception | None) -> None:
            if not over.is_set():
                loop.call_soon_threadsafe(answers.put_nowait, answer)

        def read() -> None:
            try:
                for answer in self._relay.flows(request, clusters or self._clusters):
                    room.acquire()
                    if over.is_set():
                        return
                    put(answer)
                put(None)
            except CommandError as exc:
                put(exc)

        threading.Thread(target=read, daemon=True, name="flows of the relay").start()
        try:
            while (answer := await answers.get()) is not None:
                room.release()
                if isinstance(answer, Exception):
                    raise ForwardedError(str(answer)) from answer
                yield answer
        finally:
            over.set()
            room.release()

    async def status(self) -> observer.ServerStatusResponse:
        """Raises: ForwardedError."""
        return await self._ask(self._relay.status)

    async def list_nodes(self) -> observer.GetNodesResponse:
        """Raises: ForwardedError."""
        return await self._ask(self._relay.nodes)

    async def list_namespaces(self) -> observer.GetNamespacesResponse:
        """Raises: ForwardedError."""
        return await self._ask(self._relay.namespaces)

    async def _ask(self, ask: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(ask)
        except CommandError as exc:
            raise ForwardedError(str(exc)) from exc
