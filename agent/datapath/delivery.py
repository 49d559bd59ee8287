# SPDX-License-Identifier: Apache-2.0
"""Programs in the node's stack, where it hands packets to its own processes and where it sends them: netfilter links (Linux 6.4)
pinned on bpffs.

They belong to the network namespace in which they are made. A link cannot be given another program, and two of one priority
are refused; so the new one is made at another priority before the old one goes, and no packet meets none.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple

from agent.datapath import syscall
from agent.datapath.errors import KernelError

_BEFORE_FILTERS: Final = range(-16, 0)
"""After translation of what comes in (-100), before the tables that filter (0)."""
_AFTER_TRANSLATION: Final = range(200, 216)
"""After that of what leaves (100), and that of IPVS where packets are handed over (99), before connections are remembered."""
_NEW: Final = "_new"


class Family(Enum):
    """Whose packets; the value is the kernel's NFPROTO_*."""

    IPV4 = 2
    IPV6 = 10


class StackHook(NamedTuple):
    """One place in the stack, and which program of mesh_stack.bpf.o belongs there."""

    name: str
    program: str
    family: Family
    hook: int
    priorities: range


STACK_HOOKS: Final = (
    StackHook("ipv4", "mesh_delivered", Family.IPV4, syscall.LOCAL_IN, _BEFORE_FILTERS),
    StackHook("ipv6", "mesh_delivered_ipv6", Family.IPV6, syscall.LOCAL_IN, _BEFORE_FILTERS),
    StackHook("overlay", "mesh_to_overlay_socket", Family.IPV4, syscall.LOCAL_IN, _AFTER_TRANSLATION),
    StackHook("leaving", "mesh_leaves_stack", Family.IPV4, syscall.POST_ROUTING, _AFTER_TRANSLATION),
)


class DeliveryLinks:
    """The links recorded below one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def settle(self, loaded: Mapping[str, int], *, with_running: bool = True) -> None:
        """Nothing is missing any more. Idempotent. Raises: KernelError."""
        for hook in self._missing(loaded, with_running=with_running):
            self._attach(hook, loaded[hook.program])

    def missing(self, loaded: Mapping[str, int], *, with_running: bool = True) -> list[str]:
        """Names of hooks that run no program of those `loaded` by this process; without `with_running`: none of ours at all."""
        return [hook.name for hook in self._missing(loaded, with_running=with_running)]

    def programs(self) -> set[int]:
        """The ids of the programs that are linked."""
        return set(self._programs(STACK_HOOKS))

    def detach(self) -> None:
        """Nothing of ours is linked."""
        for hook in STACK_HOOKS:
            self._path(hook).unlink(missing_ok=True)

    def _missing(self, loaded: Mapping[str, int], *, with_running: bool) -> list[StackHook]:
        found = []
        for hook in STACK_HOOKS:
            running = set(self._programs((hook,)))
            is_wanted = hook.program in loaded and (with_running or not running)
            if is_wanted and syscall.program_id(loaded[hook.program]) not in running:
                found.append(hook)
        return found

    def _attach(self, hook: StackHook, program_fd: int) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        fresh = self._path(hook).with_name(self._path(hook).name + _NEW)
        fresh.unlink(missing_ok=True)
        link = _create(hook, program_fd)
        try:
            syscall.pin(link, fresh)
        finally:
            os.close(link)
        fresh.replace(self._path(hook))

    def _programs(self, hooks: Iterable[StackHook]) -> Iterator[int]:
        for path in map(self._path, hooks):
            if path.exists():
                link = syscall.get_pinned(path)
                try:
                    yield syscall.link_program(link)
                finally:
                    os.close(link)

    def _path(self, hook: StackHook) -> Path:
        return self._directory / f"delivery_{hook.name}"


def _create(hook: StackHook, program_fd: int) -> int:
    for priority in hook.priorities:
        try:
            return syscall.create_netfilter_link(program_fd, hook.family.value, hook.hook, priority)
        except KernelError as exc:
            if exc.errno != errno.EBUSY:
                raise
    raise KernelError("LINK_CREATE", errno.EBUSY, f"netfilter priorities {hook.priorities}")
