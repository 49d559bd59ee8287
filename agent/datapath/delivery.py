# SPDX-License-Identifier: Apache-2.0
"""Programs where the node's stack hands packets to its own processes: netfilter links (Linux 6.4) pinned on bpffs.

They belong to the network namespace in which they are made. A link cannot be given another program, and two of one priority
are refused; so the new one is made at another priority before the old one goes, and no packet meets none.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Final

from agent.datapath import syscall
from agent.datapath.errors import KernelError

_PRIORITIES: Final = range(-16, 0)
"""After translation of what comes in (-100), before the tables that filter (0)."""
_NEW: Final = "_new"


class Family(Enum):
    """Whose packets; the value is the kernel's NFPROTO_*."""

    IPV4 = 2
    IPV6 = 10


class DeliveryLinks:
    """The links recorded below one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def attach(self, family: Family, program_fd: int) -> None:
        """Packets of this namespace meet this program before a process of it has them. Idempotent. Raises: KernelError."""
        if self.runs(family, program_fd):
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        fresh = self._path(family).with_name(self._path(family).name + _NEW)
        fresh.unlink(missing_ok=True)
        link = _create(program_fd, family)
        try:
            syscall.pin(link, fresh)
        finally:
            os.close(link)
        fresh.replace(self._path(family))

    def runs(self, family: Family, program_fd: int) -> bool:
        """This very program is linked."""
        return syscall.program_id(program_fd) in self._programs((family,))

    def has(self, family: Family) -> bool:
        """A program of ours is linked, be it a former process's."""
        return bool(tuple(self._programs((family,))))

    def programs(self) -> set[int]:
        """The ids of the programs that are linked."""
        return set(self._programs(tuple(Family)))

    def detach(self) -> None:
        """Nothing of ours is linked."""
        for family in Family:
            self._path(family).unlink(missing_ok=True)

    def _programs(self, families: tuple[Family, ...]) -> Iterator[int]:
        for path in map(self._path, families):
            if path.exists():
                link = syscall.get_pinned(path)
                try:
                    yield syscall.link_program(link)
                finally:
                    os.close(link)

    def _path(self, family: Family) -> Path:
        return self._directory / f"delivery_{family.name.lower()}"


def _create(program_fd: int, family: Family) -> int:
    for priority in _PRIORITIES:
        try:
            return syscall.create_netfilter_link(program_fd, family.value, priority)
        except KernelError as exc:
            if exc.errno != errno.EBUSY:
                raise
    raise KernelError("LINK_CREATE", errno.EBUSY, f"netfilter priorities {_PRIORITIES}")
