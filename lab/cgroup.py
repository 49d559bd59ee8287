# SPDX-License-Identifier: Apache-2.0
"""The lab's control groups: every process the lab starts is in one, so none can be lost."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

KILL_WAIT_S: Final = 10.0
POLL_S: Final = 0.01
_pause: Final = threading.Event()


def ensure_mounted(mount: Path) -> None:
    """A cgroup v2 hierarchy is there; machines that mount none get the lab's own."""
    if (mount / "cgroup.procs").exists():
        return
    mount.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "cgroup2", "none", str(mount)], check=True)


def ensure(group: Path) -> None:
    group.mkdir(parents=True, exist_ok=True)


def joined(group: Path, command: Sequence[str]) -> list[str]:
    """The same command, run as a member of the group from its first moment."""
    return ["/bin/sh", "-c", 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"', "sh", str(group), *command]


def processes(group: Path) -> list[int]:
    """Every process in the group and below it."""
    found: list[int] = []
    for directory, _, _ in os.walk(group):
        with suppress(OSError):
            found += [int(line) for line in Path(directory, "cgroup.procs").read_text().split()]
    return sorted(found)


def kill(group: Path, *, wait_s: float = KILL_WAIT_S) -> None:
    """No process is left in the group or below it. Raises: TimeoutError with what would not die."""
    if not group.exists():
        return
    (group / "cgroup.kill").write_text("1")
    limit = time.monotonic() + wait_s
    while left := processes(group):
        if time.monotonic() > limit:
            raise TimeoutError(f"{group}: still running: {left}")
        _pause.wait(POLL_S)


def remove(group: Path) -> None:
    """The empty group and every group below it are gone; absent is success."""
    limit = time.monotonic() + KILL_WAIT_S
    while group.exists():
        for directory, _, _ in os.walk(group, topdown=False):
            with suppress(OSError):
                Path(directory).rmdir()
        if time.monotonic() > limit:
            raise TimeoutError(f"{group}: cannot be removed")
        if group.exists():
            _pause.wait(POLL_S)
