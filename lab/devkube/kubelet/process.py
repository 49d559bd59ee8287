# SPDX-License-Identifier: Apache-2.0
"""One container as a process: start it in its namespaces, signal it, learn how it ended, enter it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

from lab import cgroup
from meshkit.patience import within

SCRIPT: Final = Path(__file__).with_name("container.sh")
SH: Final = "/bin/sh"
POLL_S: Final = 0.02
START_LIMIT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory or file of the machine at a place in the container. Units: mode is `rw` or `ro`."""

    source: Path
    target: str
    mode: str = "rw"


def outer_first(mounts: Iterable[Mount]) -> list[Mount]:
    """In the order in which they can be mounted: one below another's place comes after it, or it would be hidden."""
    return sorted(mounts, key=lambda mount: PurePosixPath(mount.target).parts)


@dataclass(frozen=True, slots=True)
class Launch:
    """All that one start of a container needs."""

    directory: Path
    hostname: str
    netns: Path
    cgroup: Path
    command: tuple[str, ...]
    environment: Mapping[str, str]
    mounts: tuple[Mount, ...]
    files: Mapping[str, str]
    log: Path
    working_directory: str = "/"
    capabilities: str = ""
    """Those that are left to it, as setpriv(1) writes a bounding set; empty: all."""
    root: str = ""
    """The directory with its files; empty: the machine's."""


class ContainerProcess:
    """A started container. `init_pid` is its first process as the machine numbers it."""

    def __init__(self, launch: Launch, process: asyncio.subprocess.Process, init_pid: int) -> None:
        self.launch, self._process, self.init_pid = launch, process, init_pid

    @property
    def is_running(self) -> bool:
        return self._process.returncode is None

    async def wait(self) -> int:
        """The exit code as Kubernetes counts it: 128 and the signal's number where a signal ended it."""
        code = await self._process.wait()
        return code if code >= 0 else 128 - code

    def send(self, number: signal.Signals) -> None:
        """The container's first process gets the signal; one that has ended is left alone."""
        if self.is_running:
            with suppress(ProcessLookupError):
                os.kill(self.init_pid, number)

    async def stop(self, grace_s: float, stop_signal: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end, and end it when the grace period is over."""
        self.send(stop_signal)
        try:
            return await within(grace_s, self.wait())
        except TimeoutError:
            self.send(signal.SIGKILL)
            return await self.wait()

    def enter(self, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` inside the container."""
        namespaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd"]
        nsenter = ["nsenter", "--target", str(self.init_pid), *namespaces, "--", *command]
        return cgroup.joined(self.launch.cgroup, nsenter)


async def start(launch: Launch) -> ContainerProcess:
    """The container runs. Raises: OSError if its namespaces cannot be made."""
    await asyncio.to_thread(_prepare, launch)
    unshare = ["unshare", "--mount", "--propagation", "private", "--uts", "--ipc", "--pid", "--fork", "--kill-child"]
    inner = [SH, str(SCRIPT), str(launch.directory), launch.hostname, *launch.command]
    argv = cgroup.joined(launch.cgroup, ["nsenter", f"--net={launch.netns}", "--", *unshare, "--", *inner])
    own = {"CONTAINER_WORKING_DIRECTORY": launch.working_directory, "CONTAINER_ROOT": launch.root or "/"}
    environment = {**launch.environment, **own}
    if launch.capabilities:
        environment["CONTAINER_CAPABILITIES"] = launch.capabilities
    with _open_log(launch.log) as log:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True, cwd="/"
        )
    return ContainerProcess(launch, process, await _first_child(process))


async def _first_child(process: asyncio.subprocess.Process) -> int:
    """The pid of the new pid namespace's first process; the starter's own if it ended before anybody looked."""
    limit = asyncio.get_running_loop().time() + START_LIMIT_S
    while process.returncode is None and asyncio.get_running_loop().time() < limit:
        if found := children_of(process.pid):
            return found[0]
        await asyncio.sleep(POLL_S)
    return process.pid


def children_of(pid: int) -> list[int]:
    """The process's children; a process that has gone has none."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _open_log(path: Path) -> BinaryIO:
    return path.open("ab")


def _prepare(launch: Launch) -> None:
    """A fresh, empty layer over the machine's root, and the list of what is mounted into it."""
    for name in ("upper", "work", "root"):
        shutil.rmtree(launch.directory / name, ignore_errors=True)
        (launch.directory / name).mkdir(parents=True)
    for path, content in launch.files.items():
        target = launch.directory / "upper" / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
    lines = [f"{mount.mode}\t{mount.source}\t{mount.target}\n" for mount in outer_first(launch.mounts)]
    (launch.directory / "mounts").write_text("".join(lines))
    launch.log.parent.mkdir(parents=True, exist_ok=True)
    launch.cgroup.mkdir(parents=True, exist_ok=True)
