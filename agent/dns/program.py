# SPDX-License-Identifier: Apache-2.0
"""The DNS proxy as a program: `python -m agent.dns.program DIRECTORY DESCRIPTOR`, kept by the node's keeper of proxies.

It needs root at first, for its sockets and the directory, and keeps CAP_NET_ADMIN alone. Twice a second it writes to the
descriptor, a pipe, that it is well, and it ends when nobody reads there any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from agent.dns.datagrams import DatagramProxy
from agent.dns.judge import Judge
from agent.dns.link import LONGEST_LINE, SOCKET, AgentLink
from agent.dns.rule_file import decode_rules
from agent.dns.sockets import answering_socket, listening_datagrams, listening_streams
from agent.dns.streams import StreamProxy
from agent.proxy_files import RULES
from meshkit.privileges import keep_net_admin_only

_MOST_FILES: Final = 16_384
_SIGN_S: Final = 0.5


class DnsProxy:
    """Listens on the ports of the file of rules. Descriptors: `directory`, where that is, and `pipe` of its keeper."""

    def __init__(self, directory: int, pipe: int) -> None:
        self._directory, self._pipe = directory, pipe
        self._again = asyncio.Event()
        self._link = AgentLink(self._again.set, time.monotonic, time.time_ns)
        self._judge = Judge(self._link, time.time_ns)
        self._link.state = self._state
        self._datagrams = DatagramProxy(self._judge, answering_socket())
        self._streams = StreamProxy(self._judge)
        self._listening: dict[int, list[Callable[[], None]]] = {}
        self._closed: dict[str, str] = {}

    async def run(self) -> None:
        """Until it is told to end."""
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(SOCKET, dir_fd=self._directory)
        before = os.umask(0o177)
        path = f"/proc/self/fd/{self._directory}/{SOCKET}"  # paths of sockets are short
        server = await asyncio.start_unix_server(self._link.serve, path, limit=LONGEST_LINE)
        os.umask(before)
        keep_net_admin_only()
        await self._read()
        tasks = [asyncio.create_task(self._link.flush()), asyncio.create_task(self._follow())]
        tasks.append(asyncio.create_task(self._say_it_is_well(stop)))
        async with server:
            await stop.wait()
        for task in tasks:
            task.cancel()

    async def _say_it_is_well(self, stop: asyncio.Event) -> None:
        os.set_blocking(self._pipe, False)
        while True:
            try:
                os.write(self._pipe, b".")
            except BlockingIOError:
                pass  # a keeper that stands still
            except OSError:
                stop.set()
                return
            await asyncio.sleep(_SIGN_S)

    async def _follow(self) -> None:
        while True:
            await self._again.wait()
            self._again.clear()
            await self._read()

    async def _read(self) -> None:
        """What cannot be read changes nothing."""
        try:
            descriptor = os.open(RULES, os.O_RDONLY, dir_fd=self._directory)
            with os.fdopen(descriptor, "rb") as file:
                rules, self._judge.refusal = decode_rules(file.read())
        except (OSError, ValueError) as exc:
            self._closed = {"": f"the file of rules cannot be read: {exc}"}
            return
        self._closed = {}
        self._judge.rules = rules
        for port in self._listening.keys() - rules.keys():
            for end in self._listening.pop(port):
                end()
        for port in rules.keys() - self._listening.keys():
            await self._listen(port)

    async def _listen(self, port: int) -> None:
        with contextlib.ExitStack() as stack:
            try:
                datagrams = listening_datagrams(port)
                stack.callback(datagrams.close)
                streams = listening_streams(port)
                stack.callback(streams.close)
                server = await self._streams.serve(streams, port)
            except OSError as exc:
                self._closed[str(port)] = f"port {port} cannot be listened on: {exc.strerror}"
                return
            stack.pop_all()
            self._listening[port] = [self._datagrams.serve(datagrams, port), server.close]

    def _state(self) -> Mapping[str, Any]:
        return {
            "counts": dict(self._judge.counts),
            "closed": dict(self._closed),
            "listening": sorted(self._listening),
        }


def main() -> None:
    """Run as the keeper starts it."""
    directory, pipe = Path(sys.argv[1]), int(sys.argv[2])
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, _MOST_FILES), most))
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)

    async def run() -> None:
        await DnsProxy(descriptor, pipe).run()

    asyncio.run(run())


if __name__ == "__main__":
    main()
