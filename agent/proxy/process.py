# SPDX-License-Identifier: Apache-2.0
"""Envoy as a process of the node: started with the one capability that it needs, found again by the next agent, watched.

It runs as nobody, with CAP_NET_ADMIN for transparent sockets and their marks. It outlives an agent that ends; the next one of
the node takes it over.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from agent.lasting_process import LastingProcess, ProcessEndedError
from agent.proxy.envoy_config import ACCESS_LOG, bootstrap
from agent.settings import AgentSettings

NOBODY: Final = 65534
_PRIVILEGES: Final = (
    "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs",
    "--inh-caps=-all,+net_admin", "--ambient-caps=-all,+net_admin", "--bounding-set=-all,+net_admin",
)  # fmt: skip
_WORKERS: Final = 2
_DRAIN_S: Final = 5


class EnvoyProcess:
    """One Envoy for one directory. `mtu`: of the overlay."""

    def __init__(self, envoy: Path, directory: Path, mtu: int) -> None:
        self._envoy, self._directory, self._mtu = envoy, directory.absolute(), mtu
        told = f"{envoy} {bootstrap(str(self._directory), mtu)}"
        self._lasting = LastingProcess("envoy", "Envoy", self._directory, told)

    @property
    def pid(self) -> int:
        """Of the process that runs; 0 while none does."""
        return self._lasting.pid

    def prepare(self) -> None:
        """The directory is there, and what Envoy writes in it is Envoy's. Raises: OSError."""
        self._lasting.prepare()
        for path in (self._directory / ACCESS_LOG, self._lasting.log):
            path.touch(mode=0o600)
            os.chown(path, NOBODY, NOBODY)

    async def run(self) -> None:
        """Until Envoy ends, one of an earlier agent if it still runs as this one would start it. Raises: ProcessEndedError."""
        try:
            binary = os.open(self._envoy, os.O_RDONLY)
        except OSError as exc:
            raise ProcessEndedError(f"Envoy cannot be started: {exc}") from exc
        try:
            await self._lasting.run((*_PRIVILEGES, f"/proc/self/fd/{binary}", *self._arguments()), (binary,))
        finally:
            os.close(binary)

    def end(self) -> None:
        """It does not run any more, whoever started it."""
        self._lasting.end()

    def last_words(self) -> str:
        """The last line of its log that tells of an error."""
        return self._lasting.last_words()

    def _arguments(self) -> list[str]:
        return [
            "--config-yaml", bootstrap(str(self._directory), self._mtu), "--disable-hot-restart", "--concurrency", str(_WORKERS),
            "--drain-time-s", str(_DRAIN_S), "--drain-strategy", "immediate", "--file-flush-interval-msec", "50",
            "--log-level", "warning", "--service-node", self._lasting.mark, "--service-cluster", "clustermesh",
        ]  # fmt: skip


def directory_of(settings: AgentSettings) -> Path:
    """Where the configuration and the logs of this node's Envoy are."""
    return Path(settings.proxy_directory) if settings.proxy_directory else settings.socket.parent / "proxy"


def end_envoy(settings: AgentSettings) -> None:
    """No Envoy of this node runs any more."""
    EnvoyProcess(Path(), directory_of(settings), 0).end()
