# SPDX-License-Identifier: Apache-2.0
"""Programs onto interfaces: tcx links pinned on bpffs, or clsact filters with a marker directory beside the pins.

Both survive the process, and both replace a running program without a packet seeing none.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from agent.datapath import netlink, syscall
from agent.datapath.errors import KernelError
from agent.datapath.syscall import AttachType


class Hook(StrEnum):
    """Where on an interface: packets coming in from it, or going out through it."""

    INGRESS = "ingress"
    EGRESS = "egress"


_TCX = {Hook.INGRESS: AttachType.TCX_INGRESS, Hook.EGRESS: AttachType.TCX_EGRESS}
_PARENT = {Hook.INGRESS: netlink.INGRESS_PARENT, Hook.EGRESS: netlink.EGRESS_PARENT}


class Attachment(NamedTuple):
    """One program on one hook; role says whose interface it is ("pod", "overlay", "underlay")."""

    role: str
    ifindex: int
    hook: Hook

    @property
    def file_name(self) -> str:
        """Name below the links directory; bpffs allows no dots."""
        return f"{self.role}_{self.ifindex}_{self.hook}"

    @classmethod
    def from_file_name(cls, name: str) -> Attachment:
        """Inverse of file_name."""
        role, ifindex, hook = name.split("_")
        return cls(role, int(ifindex), Hook(hook))


class Attacher:
    """The attachments recorded below one directory."""

    def __init__(self, directory: Path, *, use_tcx: bool) -> None:
        self._directory, self._use_tcx = directory, use_tcx

    def attach(self, attachment: Attachment, program_fd: int, program_name: str) -> None:
        """The hook runs this program, instead of an older one of ours if there is one. Raises: KernelError."""
        path = self._directory / attachment.file_name
        if path.is_dir() and self._use_tcx:
            self._forget_filter(attachment)
        elif path.exists() and not path.is_dir() and not self._use_tcx:
            self.detach(attachment)
        if not self._use_tcx:
            netlink.replace_filter(attachment.ifindex, _PARENT[attachment.hook], program_fd, program_name)
            path.mkdir(exist_ok=True)
        elif not self._update(attachment, program_fd):
            link = syscall.create_link(program_fd, attachment.ifindex, _TCX[attachment.hook])
            try:
                syscall.pin(link, path)
            finally:
                os.close(link)

    def detach(self, attachment: Attachment) -> None:
        """The hook runs nothing of ours; absent is fine."""
        path = self._directory / attachment.file_name
        if path.is_dir():
            self._forget_filter(attachment)
        elif path.exists():
            link = syscall.get_pinned(path)
            try:
                syscall.detach_link(link)
            except KernelError as exc:
                if exc.errno != errno.ENOLINK:  # the interface is gone already
                    raise
            finally:
                os.close(link)
                path.unlink(missing_ok=True)

    def runs(self, attachment: Attachment, program_fd: int) -> bool:
        """The hook runs this very program now; an interface that is gone runs nothing. Raises: KernelError."""
        if not self._use_tcx:
            return syscall.program_id(program_fd) in netlink.filter_programs(
                attachment.ifindex, _PARENT[attachment.hook]
            )
        return syscall.program_id(program_fd) in syscall.tcx_programs(attachment.ifindex, _TCX[attachment.hook])

    def attachments(self) -> set[Attachment]:
        """What really runs now; records of interfaces that are gone are cleared away."""
        live: set[Attachment] = set()
        for path in self._entries():
            attachment = Attachment.from_file_name(path.name)
            if self._is_live(attachment, path):
                live.add(attachment)
            elif path.is_dir():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)
        return live

    def programs(self) -> set[int]:
        """The ids of the programs that run on the recorded hooks."""
        return {number for attachment in self.attachments() for number in self._programs_of(attachment)}

    def _programs_of(self, attachment: Attachment) -> Iterable[int]:
        path = self._directory / attachment.file_name
        if path.is_dir():
            return netlink.filter_programs(attachment.ifindex, _PARENT[attachment.hook])
        link = syscall.get_pinned(path)
        try:
            return (syscall.link_program(link),)
        finally:
            os.close(link)

    def _entries(self) -> Iterable[Path]:
        return sorted(self._directory.iterdir()) if self._directory.is_dir() else ()

    def _is_live(self, attachment: Attachment, path: Path) -> bool:
        if path.is_dir():
            return netlink.has_filter(attachment.ifindex, _PARENT[attachment.hook])
        link = syscall.get_pinned(path)
        try:
            return syscall.tcx_link_ifindex(link) == attachment.ifindex
        finally:
            os.close(link)

    def _update(self, attachment: Attachment, program_fd: int) -> bool:
        """False when there is no live link to update; a dead one is cleared away."""
        path = self._directory / attachment.file_name
        if not path.exists():
            return False
        if not self._is_live(attachment, path):
            path.unlink()
            return False
        link = syscall.get_pinned(path)
        try:
            syscall.update_link(link, program_fd)
        finally:
            os.close(link)
        return True

    def _forget_filter(self, attachment: Attachment) -> None:
        netlink.remove_filters(attachment.ifindex)
        for hook in Hook:
            marker = self._directory / attachment._replace(hook=hook).file_name
            if marker.is_dir():
                marker.rmdir()
