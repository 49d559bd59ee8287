# SPDX-License-Identifier: Apache-2.0
"""Envoy as a process of the node: started with the one capability that it needs, found again by the next agent, watched.

It runs as nobody, with CAP_NET_ADMIN for transparent sockets and their marks. It outlives an agent that ends; the next one of
the node takes it over.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import stat
import subprocess
from pathlib import Path
from typing import Final

from agent.proxy.envoy_config import ACCESS_LOG, bootstrap
from agent.settings import AgentSettings
from meshkit.atomic import write_atomic
from meshkit.errors import TransientError

NOBODY: Final = 65534
LARGEST_FILE_BYTES: Final = 64 << 20
"""Of its logs, which nobody cuts while no agent runs: what goes beyond is not written."""
PROCESS_LOG: Final = "envoy.log"
_PID: Final = "envoy.pid"
_LIMITS: Final = ("prlimit", f"--fsize={LARGEST_FILE_BYTES}")
_PRIVILEGES: Final = (
    "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs",
    "--inh-caps=-all,+net_admin", "--ambient-caps=-all,+net_admin", "--bounding-set=-all,+net_admin",
)  # fmt: skip
_WORKERS: Final = 2
_WAY: Final = 0o011
_DRAIN_S: Final = 5
_LONGEST_LOG_BYTES: Final = 4 << 20


class EnvoyEndedError(TransientError):
    """Envoy ended, or could not be started."""


class EnvoyProcess:
    """One Envoy for one directory. `mtu`: of the overlay."""

    def __init__(self, envoy: Path, directory: Path, mtu: int) -> None:
        self._envoy, self._directory, self._mtu = envoy, directory.absolute(), mtu
        self.pid = 0
        """Of the process that runs; 0 while none does."""
        self._child: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """The directory is there, and what Envoy writes in it is Envoy's. Raises: OSError."""
        self._directory.mkdir(parents=True, exist_ok=True)
        parent = self._directory.parent
        parent.chmod(stat.S_IMODE(parent.stat().st_mode) | _WAY)
        self._directory.chmod(0o755)
        for name in (ACCESS_LOG, PROCESS_LOG):
            path = self._directory / name
            path.touch(mode=0o600)
            os.chown(path, NOBODY, NOBODY)

    async def run(self) -> None:
        """Until Envoy ends, one of an earlier agent if it still runs as this one would start it. Raises: EnvoyEndedError."""
        self.pid = self._find() or self._start()
        try:
            await _wait_for_end(self.pid)
        finally:
            self.pid = 0
        if self._child is not None:
            self._child.wait()
            self._child = None
        raise EnvoyEndedError(f"Envoy ended: {self.last_words() or 'it said nothing'}")

    def end(self) -> None:
        """It does not run any more, whoever started it."""
        known = self._find(of_any_version=True)
        if known:
            with contextlib.suppress(ProcessLookupError):
                os.kill(known, signal.SIGTERM)

    def last_words(self) -> str:
        """The last line of its log that tells of an error."""
        try:
            lines = (self._directory / PROCESS_LOG).read_text(errors="replace").splitlines()[-50:]
        except OSError:
            return ""
        said = [line for line in lines if "[critical]" in line or "[error]" in line or "rror" in line]
        return said[-1][:512] if said else ""

    def _arguments(self) -> list[str]:
        return [
            "--config-yaml", bootstrap(str(self._directory), self._mtu), "--disable-hot-restart", "--concurrency", str(_WORKERS),
            "--drain-time-s", str(_DRAIN_S), "--drain-strategy", "immediate", "--file-flush-interval-msec", "50",
            "--log-level", "warning", "--service-node", self._mark(), "--service-cluster", "clustermesh",
        ]  # fmt: skip

    def _mark(self) -> str:
        """Tells this directory's Envoy from others, and one that was started otherwise from this one."""
        told = f"{self._envoy} {bootstrap(str(self._directory), self._mtu)}"
        return f"{self._directory}#{hashlib.sha256(told.encode()).hexdigest()[:12]}"

    def _find(self, *, of_any_version: bool = False) -> int:
        """The process that an earlier agent started for this directory; one that was started otherwise is ended."""
        try:
            pid = int((self._directory / _PID).read_text())
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return 0
        if self._mark().encode() in arguments:
            return pid
        if not any(part.startswith(f"{self._directory}#".encode()) for part in arguments):
            return 0
        if of_any_version:
            return pid
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        return 0

    def _start(self) -> int:
        """A new process. Raises: EnvoyEndedError."""
        log = self._directory / PROCESS_LOG
        try:
            if log.stat().st_size > _LONGEST_LOG_BYTES:
                os.truncate(log, 0)
            with contextlib.ExitStack() as stack:
                binary = os.open(self._envoy, os.O_RDONLY)
                stack.callback(os.close, binary)
                written = stack.enter_context(log.open("ab"))
                self._child = subprocess.Popen(
                    [*_LIMITS, *_PRIVILEGES, f"/proc/self/fd/{binary}", *self._arguments()],
                    stdin=subprocess.DEVNULL, stdout=written, stderr=written,
                    pass_fds=(binary,), start_new_session=True, cwd="/",
                    restore_signals=False,  # SIGXFSZ stays ignored: a full log is no reason to end
                )  # fmt: skip
                write_atomic(self._directory / _PID, str(self._child.pid).encode())
        except OSError as exc:
            raise EnvoyEndedError(f"Envoy cannot be started: {exc}") from exc
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


def directory_of(settings: AgentSettings) -> Path:
    """Where the configuration and the logs of this node's Envoy are."""
    return Path(settings.proxy_directory) if settings.proxy_directory else settings.socket.parent / "proxy"


def end_envoy(settings: AgentSettings) -> None:
    """No Envoy of this node runs any more."""
    EnvoyProcess(Path(), directory_of(settings), 0).end()
