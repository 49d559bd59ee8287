# SPDX-License-Identifier: Apache-2.0
"""`clustermesh-agent proxies`: keeps the proxies of this node running, tells how they fare, and ends them when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Final

from agent.envoy_binary import find_envoy
from agent.proxy_files import ProxyFiles
from agent.proxy_states import DNS, ENVOY, EVERY_S, ProxyState, encode_states
from agent.proxykeeper.dns import DnsProgram
from agent.proxykeeper.envoy import EnvoyProgram
from agent.proxykeeper.kept_process import KeptProcess, Program
from agent.proxykeeper.pod_shares import PodShares
from agent.proxykeeper.settings import KeeperSettings
from agent.settings import LOOPBACK
from meshapi.installed import AGENT
from meshkit import log as logs
from meshkit.backoff import Backoff
from meshkit.clock import SystemClock
from meshkit.probe_server import serve_probes
from meshkit.settings import load
from meshkit.supervise import together
from meshkit.version import program_version
from meshkit.wake import Wake, wait_for_ring

_FIRST_DELAY_S: Final = 0.05
_LONGEST_DELAY_S: Final = 1.0

log = logging.getLogger(__name__)


class Keeper:
    """The proxies of one node."""

    def __init__(self, settings: KeeperSettings) -> None:
        self._settings, self._clock = settings, SystemClock()
        self._files = ProxyFiles(settings.proxy_directory)
        self._changed = Wake()
        envoy = find_envoy(settings.envoy)
        programs: dict[str, Program] = {DNS: DnsProgram(self._files.dns)}
        if envoy is not None:
            programs[ENVOY] = EnvoyProgram(envoy, self._files.envoy)
        self._kept = {
            name: KeptProcess(program, Backoff(_FIRST_DELAY_S, _LONGEST_DELAY_S), self._clock, self._changed.set)
            for name, program in programs.items()
        }

    @property
    def states(self) -> Mapping[str, ProxyState]:
        """By name."""
        return {name: kept.state for name, kept in self._kept.items()}

    def readiness(self) -> tuple[int, str]:
        """200 while every proxy that is wanted answers."""
        problems = [state.problem for state in self.states.values() if state.problem]
        return (503, "; ".join(problems)) if problems else (200, "ok")

    async def run(self) -> None:
        """Until cancelled; then no proxy runs."""
        probes = {"/healthz": lambda: (200, "ok"), "/readyz": self.readiness}
        jobs = {f"keep {name}": kept.run() for name, kept in self._kept.items()}
        serve = serve_probes(LOOPBACK, self._settings.probe_port, probes)
        shares = PodShares(self._settings.connections_per_pod, self._clock, self._is_any_running)
        await together({**jobs, "shares": shares.run(), "states": self._serve_states(), "probes": serve})

    def _is_any_running(self) -> bool:
        return any(state.pid for state in self.states.values())

    async def _serve_states(self) -> None:
        """Raises: OSError."""
        path = self._files.states
        path.parent.mkdir(parents=True, exist_ok=True)
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path.name, dir_fd=directory)
            before = os.umask(0o177)
            try:
                server = await asyncio.start_unix_server(self._tell, f"/proc/self/fd/{directory}/{path.name}")
            finally:
                os.umask(before)
        finally:
            os.close(directory)
        try:
            async with server:
                await server.serve_forever()
        finally:
            path.unlink(missing_ok=True)

    async def _tell(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not writer.is_closing():
                seen = self._changed.count
                writer.write(encode_states(self.states))
                await writer.drain()
                await wait_for_ring(self._changed, seen, EVERY_S, self._clock)
        except OSError:
            pass
        finally:
            writer.close()


def main(arguments: Sequence[str]) -> int:
    """Run until told to stop; returns the exit code."""
    settings = load(KeeperSettings, arguments, program=f"{AGENT} proxies", version=f"{AGENT} {program_version()}")
    logs.setup(settings.log_level, json=settings.log_format == "json")
    return asyncio.run(_run(settings))


async def _run(settings: KeeperSettings) -> int:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await Keeper(settings).run()
    except asyncio.CancelledError:
        log.info("stopping, proxies end")
        return 0
    except OSError as exc:
        log.error("proxies cannot be kept", extra={"error": str(exc)})
        return 1
    return 0
