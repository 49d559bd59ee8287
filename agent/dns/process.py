# SPDX-License-Identifier: Apache-2.0
"""The DNS proxy as a process of the node, which outlives an agent that ends and is taken over by the next one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from agent.lasting_process import LastingProcess
from agent.settings import AgentSettings
from meshkit.version import program_version

_PROGRAM: Final = "agent.dns.program"


class DnsProcess:
    """One proxy for one directory."""

    def __init__(self, directory: Path) -> None:
        what = f"{sys.executable} {program_version()}"
        self._directory, self._lasting = directory.absolute(), LastingProcess("dns", "the DNS proxy", directory, what)

    @property
    def pid(self) -> int:
        """Of the process that runs; 0 while none does."""
        return self._lasting.pid

    def prepare(self) -> None:
        """The directory is there. Raises: OSError."""
        self._lasting.prepare()

    async def run(self) -> None:
        """Until it ends. Raises: ProcessEndedError."""
        await self._lasting.run((sys.executable, "-P", "-m", _PROGRAM, str(self._directory), self._lasting.mark))

    def end(self) -> None:
        """It does not run any more, whoever started it."""
        self._lasting.end()


def directory_of(settings: AgentSettings) -> Path:
    """Where the rules and the socket of this node's DNS proxy are."""
    return Path(settings.proxy_directory) / "dns" if settings.proxy_directory else settings.socket.parent / "dns"


def end_dns(settings: AgentSettings) -> None:
    """No DNS proxy of this node runs any more."""
    DnsProcess(directory_of(settings)).end()
