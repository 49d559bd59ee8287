# SPDX-License-Identifier: Apache-2.0
"""What this kernel can do: present, absent, or undetermined (a probe failed for a reason of its own)."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import cache
from typing import Final, NamedTuple

from agent.datapath import syscall
from agent.datapath.errors import KernelError, UnsupportedKernelError
from agent.datapath.syscall import AttachType, MapType
from meshapi.installed import LEAST_KERNEL

_RETURN_NEXT: Final = struct.pack("<BBhi", 0xB7, 0, 0, -1) + struct.pack("<BBhi", 0x95, 0, 0, 0)
_LOOPBACK_IFINDEX: Final = 1
_NO_PREALLOC: Final = 1
_REFUSALS: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP, 524})


class Presence(StrEnum):
    """The three answers."""

    PRESENT = "present"
    ABSENT = "absent"
    UNDETERMINED = "undetermined"


class KernelFeature(NamedTuple):
    """One thing a kernel has since a version; `required` ones must be present for the datapath to load."""

    name: str
    since: tuple[int, int]
    required: bool
    probe: Callable[[], None]


def kernel_version() -> tuple[int, int]:
    """(major, minor) of the running kernel."""
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()) or 0)


def presence(feature: KernelFeature) -> Presence:
    """The probe's answer. Refusals on a kernel that is new enough are undetermined: the probe may be what rotted."""
    try:
        feature.probe()
    except KernelError as exc:
        if exc.errno in _REFUSALS and kernel_version() < feature.since:
            return Presence.ABSENT
        return Presence.UNDETERMINED
    return Presence.PRESENT


def _with_fd(fd: int) -> None:
    os.close(fd)


def _probe_tcx() -> None:
    program = syscall.load_program(_RETURN_NEXT)
    try:
        _with_fd(syscall.create_link(program, _LOOPBACK_IFINDEX, AttachType.TCX_INGRESS))
    finally:
        os.close(program)


def _probe_helper(number: int, arguments: int) -> None:
    """A program that calls the helper with zeros verifies; the context register is never an argument we need."""
    code = b"".join(struct.pack("<BBhi", 0xB7, register, 0, 0) for register in range(1, arguments + 1))
    call = struct.pack("<BBhi", 0x85, 0, 0, number)
    _with_fd(syscall.load_program(code + call + _RETURN_NEXT))


def _probe_batch() -> None:
    from agent.datapath.kernel import RawMap

    raw = RawMap(syscall.create_map(MapType.LPM_TRIE, 8, 4, 8, _NO_PREALLOC))
    try:
        keys = [struct.pack("<I4s", 32, bytes([10, 0, 0, i])) for i in range(2)]
        error, _ = raw.update(keys, [bytes(4)] * 2)
        if error or not raw.batches_work or len(list(raw.entries())) != 2:
            raise KernelError("MAP_UPDATE_BATCH", error or errno.EOPNOTSUPP)
    finally:
        raw.close()


def _probe_socket_hooks() -> None:
    """A connect hook may say with which error a connect ends."""
    code = struct.pack("<BBhi", 0xB7, 1, 0, 0) + struct.pack("<BBhi", 0x85, 0, 0, _HELPER_SET_RETVAL)
    go_on = struct.pack("<BBhi", 0xB7, 0, 0, 1) + struct.pack("<BBhi", 0x95, 0, 0, 0)
    _with_fd(syscall.load_program(code + go_on, syscall.CGROUP_SOCK_ADDR, AttachType.CGROUP_INET4_CONNECT))


_HELPER_SET_RETVAL: Final = 187
_HELPER_COARSE_CLOCK: Final = 160
_HELPER_REDIRECT_PEER: Final = 155
FEATURES: Final = (
    KernelFeature("tcx", (6, 6), required=False, probe=_probe_tcx),
    KernelFeature("redirect_peer", (5, 10), required=True, probe=lambda: _probe_helper(_HELPER_REDIRECT_PEER, 2)),
    KernelFeature("coarse_clock", (5, 11), required=True, probe=lambda: _probe_helper(_HELPER_COARSE_CLOCK, 0)),
    KernelFeature(
        "ring_buffer",
        (5, 8),
        required=True,
        probe=lambda: _with_fd(syscall.create_map(MapType.RINGBUF, 0, 0, os.sysconf("SC_PAGE_SIZE"))),
    ),
    KernelFeature(
        "lru_hash", (4, 10), required=True, probe=lambda: _with_fd(syscall.create_map(MapType.LRU_HASH, 4, 4, 8))
    ),
    KernelFeature("prefix_batches", (5, 13), required=False, probe=_probe_batch),
    KernelFeature("socket_hooks", (5, 18), required=False, probe=_probe_socket_hooks),
)


def check_kernel(kernel_features: Sequence[KernelFeature] = FEATURES, running: tuple[int, int] | None = None) -> None:
    """Everything that our programs cannot do without is there, as far as can be determined.

    Raises: UnsupportedKernelError.
    """
    running = kernel_version() if running is None else running
    lacking = [f for f in kernel_features if f.required and presence(f) is Presence.ABSENT]
    needs = [f"{f.name} (Linux {f.since[0]}.{f.since[1]})" for f in lacking]
    least = max([LEAST_KERNEL, *(f.since for f in lacking)])
    if running < LEAST_KERNEL:
        needs.append(f"functions verified one by one (Linux {LEAST_KERNEL[0]}.{LEAST_KERNEL[1]})")
    if needs:
        raise UnsupportedKernelError(
            f"this kernel is Linux {running[0]}.{running[1]} and lacks {', '.join(needs)}: "
            f"the agent needs Linux {least[0]}.{least[1]} or later"
        )


@cache
def has_tcx() -> Presence:
    """Whether programs can be attached by tcx links."""
    return presence(FEATURES[0])


@cache
def has_socket_hooks() -> Presence:
    """Whether connects of the node's processes can be led elsewhere, and refused."""
    return presence(FEATURES[-1])


def report() -> dict[str, Presence]:
    """Every feature's answer, by name, for the status page."""
    return {feature.name: presence(feature) for feature in FEATURES}
