# SPDX-License-Identifier: Apache-2.0
"""Programs for the node's own sockets onto a control group that all its processes are below: links pinned on bpffs.

They survive the process, and a running program is replaced without a call seeing none. Which sockets are the node's the
programs decide, by the cookie of the network namespace.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agent.datapath import features, syscall
from agent.datapath.errors import KernelError
from agent.datapath.syscall import AttachType

SOCKET_HOOKS: Final[Mapping[str, AttachType]] = {
    "mesh_connect4": AttachType.CGROUP_INET4_CONNECT,
    "mesh_connect6": AttachType.CGROUP_INET6_CONNECT,
    "mesh_sendmsg4": AttachType.CGROUP_UDP4_SENDMSG,
    "mesh_sendmsg6": AttachType.CGROUP_UDP6_SENDMSG,
    "mesh_recvmsg4": AttachType.CGROUP_UDP4_RECVMSG,
    "mesh_recvmsg6": AttachType.CGROUP_UDP6_RECVMSG,
    "mesh_getpeername4": AttachType.CGROUP_INET4_GETPEERNAME,
    "mesh_getpeername6": AttachType.CGROUP_INET6_GETPEERNAME,
}
"""Every program of the object, with its hook."""
_SO_NETNS_COOKIE: Final = 71
_UNIFIED: Final = "unified"


def netns_cookie() -> int:
    """The kernel's number of this thread's network namespace; 0 where it does not tell (before Linux 5.14)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            return int.from_bytes(asked.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), "little")
        except OSError:
            return 0


def find_control_group(directory: Path) -> Path | None:
    """The cgroup v2 hierarchy mounted there, in hybrid layouts one directory further down; None if there is none."""
    return next((d for d in (directory, directory / _UNIFIED) if (d / "cgroup.procs").exists() and _is_v2(d)), None)


def _is_v2(directory: Path) -> bool:
    return (directory / "cgroup.controllers").exists()


def prepare_hooks(pins: Path, control_group: Path | None) -> tuple[SocketHooks | None, str]:
    """What attaches to the hierarchy mounted there, or None and why nothing can: then no hook of a former process is left.

    `pins`: the node's directory; None for no control group switches the hooks off. Raises: KernelError.
    """
    directory, reason = pins / "sockets", _obstacle(control_group)
    group = find_control_group(control_group) if control_group is not None else None
    if reason or group is None:
        SocketHooks(directory, Path()).detach()
        return None, reason
    return SocketHooks(directory, group), ""


def _obstacle(directory: Path | None) -> str:
    """Why sockets of the node cannot be hooked; empty if they can."""
    if directory is None:
        return "switched off"
    if features.has_socket_hooks() is features.Presence.ABSENT:
        return "this kernel cannot refuse a connect with an error (Linux 5.18)"
    if not netns_cookie():
        return "this kernel does not tell network namespaces apart (Linux 5.14)"
    if find_control_group(directory) is None:
        return f"no cgroup v2 hierarchy of the node is mounted at {directory}"
    return ""


class SocketHooks:
    """The links below one directory of pins, on one control group."""

    def __init__(self, pins: Path, control_group: Path) -> None:
        self._pins, self._group = pins, control_group

    def attach(self, programs: Mapping[str, int], *, with_running: bool = True) -> None:
        """Every hook runs its program of these; those that run a former one keep it unless `with_running`.

        `programs`: descriptors by name. Raises: KernelError, OSError.
        """
        self._pins.mkdir(parents=True, exist_ok=True)
        group = os.open(self._group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name, hook in SOCKET_HOOKS.items():
                self._attach(name, hook, programs[name], group, with_running=with_running)
        finally:
            os.close(group)

    def detach(self) -> None:
        """No hook runs a program of ours; absent is fine."""
        for path in self._links():
            link = syscall.get_pinned(path)
            try:
                syscall.detach_link(link)
            except KernelError as exc:
                if exc.errno != errno.ENOLINK:  # the control group is gone already
                    raise
            finally:
                os.close(link)
                path.unlink(missing_ok=True)

    def missing(self, programs: Mapping[str, int], *, with_running: bool = True) -> list[str]:
        """Names of programs that their hook does not run; with `with_running` false, of hooks that run none of ours."""
        return [name for name in SOCKET_HOOKS if not self._runs(name, programs[name] if with_running else None)]

    def programs(self) -> set[int]:
        """The ids of the programs that run."""
        return {number for path in self._links() if (number := _program_of(path, self._group))}

    def _links(self) -> list[Path]:
        return sorted(self._pins.iterdir()) if self._pins.is_dir() else []

    def _runs(self, name: str, program: int | None) -> bool:
        found = _program_of(self._pins / name, self._group)
        return bool(found) if program is None else found == syscall.program_id(program)

    def _attach(self, name: str, hook: AttachType, program: int, group: int, *, with_running: bool) -> None:
        path = self._pins / name
        if _program_of(path, self._group):
            if with_running:
                link = syscall.get_pinned(path)
                try:
                    syscall.update_link(link, program)
                finally:
                    os.close(link)
            return
        path.unlink(missing_ok=True)
        link = syscall.create_link(program, group, hook)
        try:
            syscall.pin(link, path)
        finally:
            os.close(link)


def _program_of(path: Path, control_group: Path) -> int:
    """The id of the program that the pinned link runs on this very control group; 0 if there is none."""
    if not path.exists():
        return 0
    link = syscall.get_pinned(path)
    try:
        number = control_group.stat().st_ino  # of cgroup v2: the number links tell
        return syscall.link_program(link) if syscall.cgroup_link_target(link) == number else 0
    finally:
        os.close(link)
