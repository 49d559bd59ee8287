# SPDX-License-Identifier: Apache-2.0
"""The DNS proxy as a process, which says by itself, through a pipe, that it is well."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from agent.last_error import last_error
from agent.proxy_files import RULES
from agent.proxykeeper.launch import launch
from meshkit.descriptors import readable

_LOG: Final = "dns.log"
_PROGRAM: Final = "agent.dns.program"
_SIGNS: Final = 4096


class DnsProgram:
    """The DNS proxy of one directory. It runs while its file of rules is there."""

    title: Final = "the DNS proxy"

    def __init__(self, directory: Path) -> None:
        self._directory = directory.absolute()
        self._signs = -1

    def wanted(self) -> str:
        """Always the same: it reads its rules again by itself."""
        return "rules" if (self._directory / RULES).exists() else ""

    def start(self) -> subprocess.Popen[bytes]:
        """Raises: OSError."""
        if self._signs >= 0:
            os.close(self._signs)
        self._signs, end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            command = (sys.executable, "-P", "-m", _PROGRAM, str(self._directory), str(end))
            return launch(command, self._directory / _LOG, (end,))
        finally:
            os.close(end)

    async def ask(self) -> None:
        """It said so since the last call, or says it now. Raises: OSError."""
        signs = self._signs
        while True:
            with contextlib.suppress(BlockingIOError):
                if os.read(signs, _SIGNS):
                    return
                raise OSError("the DNS proxy has closed its pipe")
            await readable(signs)

    def last_words(self) -> str:
        """As `last_error`."""
        return last_error(self._directory / _LOG)
