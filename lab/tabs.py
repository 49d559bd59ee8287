# SPDX-License-Identifier: Apache-2.0
"""The walkthrough's terminal tabs: a command as a user types it, on a terminal, with one kubeconfig."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CHUNK: Final = 65536
DEFAULT_LIMIT_S: Final = 120.0
TIMED_OUT: Final = 124
ESCAPES: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True, slots=True)
class Output:
    """What a command printed, without terminal escapes, and its exit code (124 where it was too slow)."""

    code: int
    text: str
    took_s: float


@dataclass(frozen=True, slots=True)
class Tab:
    """One terminal: `Koornacht`, `Tion` or `Global`."""

    name: str
    kubeconfig: Path
    directory: Path

    def start(self, command: str) -> TabSession:
        """The command begins; nothing waits for it."""
        master, slave = pty.openpty()
        try:
            path = f"{Path(sys.prefix, 'bin')}:{os.environ.get('PATH', '')}"
            environment = {
                **os.environ,
                "KUBECONFIG": str(self.kubeconfig),
                "PATH": path,
                "TERM": "dumb",
                "COLUMNS": "200",
            }
            process = subprocess.Popen(
                ["/bin/sh", "-c", command],
                stdin=slave,
                stdout=slave,
                stderr=slave,
                env=environment,
                cwd=self.directory,
                start_new_session=True,
            )
        except BaseException:
            os.close(master)
            raise
        finally:
            os.close(slave)
        return TabSession(process, master)

    def run(self, command: str, limit_s: float = DEFAULT_LIMIT_S) -> Output:
        """The command to its end, or to the time limit."""
        return self.start(command).finish(limit_s)


class TabSession:
    """A command that runs on a terminal of its own."""

    def __init__(self, process: subprocess.Popen[bytes], terminal: int) -> None:
        self._process, self._terminal = process, terminal
        self._since_s = time.monotonic()
        self._pieces: list[bytes] = []

    def read(self, seconds: float) -> str:
        """What it has printed so far, after looking for more for so long or until it ends."""
        limit_s = time.monotonic() + seconds
        while (left_s := limit_s - time.monotonic()) > 0 and self._take(left_s):
            pass
        return self._text()

    def finish(self, limit_s: float) -> Output:
        """Everything, with the exit code; past the limit the command is killed."""
        self.read(max(0.0, self._since_s + limit_s - time.monotonic()))
        code = TIMED_OUT
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(max(0.1, self._since_s + limit_s - time.monotonic()))
        return self._close(code)

    def stop(self) -> Output:
        """End the command now."""
        self.read(0.2)
        return self._close(0)

    def _close(self, code: int) -> Output:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._terminal)
        return Output(code, self._text(), time.monotonic() - self._since_s)

    def _take(self, wait_s: float) -> bool:
        """Whether there may be more."""
        ready, _, _ = select.select([self._terminal], [], [], wait_s)
        if not ready:
            return self._process.poll() is None
        try:
            piece = os.read(self._terminal, CHUNK)
        except OSError:
            return False
        self._pieces.append(piece)
        return bool(piece)

    def _text(self) -> str:
        text = b"".join(self._pieces).decode(errors="replace").replace("\r\n", "\n")
        return ESCAPES.sub("", text)
