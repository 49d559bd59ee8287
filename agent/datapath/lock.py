# SPDX-License-Identifier: Apache-2.0
"""One agent per node: who holds the lock on the pin directory owns what is pinned there."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from agent.datapath.errors import KernelError
from meshkit.errors import PermanentError

_LOCKS = Path("/proc/locks")


class NodeTakenError(PermanentError):
    """Another process owns the pins of this node; `owner` is its pid, 0 where that cannot be seen from here."""

    def __init__(self, directory: Path, owner: int) -> None:
        who = f"process {owner}" if owner else "another process"
        super().__init__(
            f"{directory} is in use by {who}: two agents on one node would overwrite each other's maps; "
            "stop the other one first, or give this one a --pin-directory of its own"
        )
        self.directory, self.owner = directory, owner


class NodeLock:
    """Held from `take` until the process ends, or `release`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._fd = -1

    def take(self) -> None:
        """Nobody else has the directory while this process has it; also one that was made anew under the same name.

        Idempotent. Raises: NodeTakenError, KernelError.
        """
        if self._is_held():
            return
        self.release()
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as exc:
            raise KernelError("open the pin directory", exc.errno or errno.EIO, str(self._directory)) from exc
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner(os.fstat(fd).st_ino)
            os.close(fd)
            raise NodeTakenError(self._directory, owner) from None
        self._fd = fd

    def _is_held(self) -> bool:
        try:
            return self._fd >= 0 and os.path.samestat(os.fstat(self._fd), self._directory.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _owner(inode: int) -> int:
    """The pid that holds a lock on this inode. Source: proc(5), /proc/locks."""
    for line in _LOCKS.read_text(encoding="ascii").splitlines():
        words = line.split()
        if words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(inode):
            return max(0, int(words[4]))
    return 0
