# SPDX-License-Identifier: Apache-2.0
"""A process of the node that outlives the agent that started it: found again by the next one, watched, ended."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from meshkit.atomic import write_atomic
from meshkit.errors import TransientError

LARGEST_FILE_BYTES: Final = 64 << 20
"""Of its logs, which nobody cuts while no agent runs: what goes beyond is not written."""
_LIMITS: Final = ("prlimit", f"--fsize={LARGEST_FILE_BYTES}")
_WAY: Final = 0o011
_LONGEST_LOG_BYTES: Final = 4 << 20


class ProcessEndedError(TransientError):
    """It ended, or could not be started."""


class LastingProcess:
    """One process for one directory, where `<name>.pid` and `<name>.log` are its files.

    `title` is what people are told of it. `what` says how it is started: one that was started otherwise is replaced.
    """

    def __init__(self, name: str, title: str, directory: Path, what: str) -> None:
        self._title, self._directory = title, directory.absolute()
        self._pid_file, self.log = self._directory / f"{name}.pid", self._directory / f"{name}.log"
        self.pid = 0
        """Of the process that runs; 0 while none does."""
        self.mark = f"{self._directory}#{hashlib.sha256(what.encode()).hexdigest()[:12]}"
        """One of its arguments, which tells it from those of other directories and ways."""
        self._child: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """The directory is there, and whoever the process is may enter it. Raises: OSError."""
        self._directory.mkdir(parents=True, exist_ok=True)
        parent = self._directory.parent
        parent.chmod(stat.S_IMODE(parent.stat().st_mode) | _WAY)
        self._directory.chmod(0o755)

    async def run(self, command: Sequence[str], descriptors: Sequence[int] = ()) -> None:
        """Until it ends, one of an earlier agent if it still runs. `command` has the mark. Raises: ProcessEndedError."""
        self.pid = self._find() or self._start(command, descriptors)
        try:
            await _wait_for_end(self.pid)
        finally:
            self.pid = 0
        if self._child is not None:
            self._child.wait()
            self._child = None
        raise ProcessEndedError(f"{self._title} ended: {self.last_words() or 'it said nothing'}")

    def end(self) -> None:
        """It does not run any more, whoever started it, and however."""
        known = self._find(of_any_kind=True)
        if known:
            with contextlib.suppress(ProcessLookupError):
                os.kill(known, signal.SIGTERM)

    def last_words(self) -> str:
        """The last line of its log that tells of an error."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()[-50:]
        except OSError:
            return ""
        said = [line for line in lines if "[critical]" in line or "rror" in line]
        return said[-1][:512] if said else ""

    def _find(self, *, of_any_kind: bool = False) -> int:
        """The process that an earlier agent started for this directory; one that was started otherwise is ended."""
        try:
            pid = int(self._pid_file.read_text())
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return 0
        if self.mark.encode() in arguments:
            return pid
        if not any(part.startswith(f"{self._directory}#".encode()) for part in arguments):
            return 0
        if of_any_kind:
            return pid
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        return 0

    def _start(self, command: Sequence[str], descriptors: Sequence[int]) -> int:
        try:
            if self.log.exists() and self.log.stat().st_size > _LONGEST_LOG_BYTES:
                os.truncate(self.log, 0)
            with self.log.open("ab") as written:
                self._child = subprocess.Popen(
                    (*_LIMITS, *command),
                    stdin=subprocess.DEVNULL, stdout=written, stderr=written,
                    pass_fds=descriptors, start_new_session=True, cwd="/",
                    restore_signals=False,  # SIGXFSZ stays ignored: a full log is no reason to end
                )  # fmt: skip
            write_atomic(self._pid_file, str(self._child.pid).encode())
        except OSError as exc:
            raise ProcessEndedError(f"{self._title} cannot be started: {exc}") from exc
        return self._child.pid


async def _wait_for_end(pid: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
