# SPDX-License-Identifier: Apache-2.0
"""bpf(2) through ctypes: one function per command, numbers in, numbers out. Raises KernelError.

Source: the kernel's include/uapi/linux/bpf.h, union bpf_attr.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple

from agent.datapath.errors import KernelError

_SYSCALL_NUMBER: Final = {"x86_64": 321, "aarch64": 280}
_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
SCHED_CLS: Final = 3
CGROUP_SOCK_ADDR: Final = 18
_LOG_BYTES: Final = 16384
_INFO_BYTES: Final = 88
_TCX_PROGRAMS: Final = 64
_PROGRAM_MAPS: Final = 64


class Command(IntEnum):
    """bpf_cmd."""

    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    PROG_LOAD = 5
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_TEST_RUN = 10
    PROG_GET_FD_BY_ID = 13
    MAP_GET_FD_BY_ID = 14
    OBJ_GET_INFO_BY_FD = 15
    PROG_QUERY = 16
    MAP_LOOKUP_BATCH = 24
    MAP_UPDATE_BATCH = 26
    MAP_DELETE_BATCH = 27
    LINK_CREATE = 28
    LINK_UPDATE = 29
    LINK_DETACH = 34


class MapType(IntEnum):
    """bpf_map_type, those in use."""

    HASH = 1
    ARRAY = 2
    PROG_ARRAY = 3
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LPM_TRIE = 11
    RINGBUF = 27


class AttachType(IntEnum):
    """bpf_attach_type, those in use."""

    TCX_INGRESS = 46
    TCX_EGRESS = 47
    CGROUP_INET4_CONNECT = 10
    CGROUP_INET6_CONNECT = 11
    CGROUP_UDP4_SENDMSG = 14
    CGROUP_UDP6_SENDMSG = 15
    CGROUP_UDP4_RECVMSG = 19
    CGROUP_UDP6_RECVMSG = 20
    CGROUP_INET4_GETPEERNAME = 29
    CGROUP_INET6_GETPEERNAME = 30


NETFILTER: Final = 45
"""bpf_attach_type of programs of netfilter; apart, since no interface has them."""
PROGRAM_TYPE_NETFILTER: Final = 32
LOCAL_IN: Final = 1
POST_ROUTING: Final = 4


class KernelMapInfo(NamedTuple):
    """struct bpf_map_info, its first fields."""

    type: int
    id: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int


class TestRun(NamedTuple):
    """What a program did with one packet."""

    verdict: int
    packet: bytes
    duration_ns: int
    priority: int


def buffer(data: bytes) -> ctypes.Array[ctypes.c_char]:
    """A buffer the kernel may read and write; keep it referenced during the call."""
    return ctypes.create_string_buffer(data, max(len(data), 1))


def call(command: Command, attr: ctypes.Array[ctypes.c_char]) -> tuple[int, int]:
    """(result, errno); errno is 0 after success."""
    result = _syscall(_SYSCALL_NUMBER[os.uname().machine], int(command), attr, len(attr))
    return (result, 0) if result >= 0 else (result, ctypes.get_errno())


def checked(command: Command, attr: bytes, detail: str = "") -> int:
    """The result of a call that must succeed."""
    result, error = call(command, buffer(attr))
    if error:
        raise KernelError(command.name, error, detail)
    return result


def get_pinned(path: Path) -> int:
    """A file descriptor of the object pinned there."""
    name = buffer(os.fsencode(path) + b"\0")
    return checked(Command.OBJ_GET, struct.pack("<QII", ctypes.addressof(name), 0, 0), str(path))


def pin(fd: int, path: Path) -> None:
    """The object is reachable under the path, which must not exist yet."""
    name = buffer(os.fsencode(path) + b"\0")
    checked(Command.OBJ_PIN, struct.pack("<QII", ctypes.addressof(name), fd, 0), str(path))


def _info(fd: int) -> bytes:
    info = buffer(bytes(_INFO_BYTES))
    checked(Command.OBJ_GET_INFO_BY_FD, struct.pack("<IIQ", fd, _INFO_BYTES, ctypes.addressof(info)))
    return info.raw


def map_info(fd: int) -> KernelMapInfo:
    """Type and sizes of a map."""
    return KernelMapInfo(*struct.unpack_from("<6I", _info(fd)))


def cgroup_link_target(fd: int) -> int:
    """The kernel's number of the cgroup a link sits on; 0 when it is gone. Source: struct bpf_link_info, cgroup."""
    return int(struct.unpack_from("<Q", _info(fd), 16)[0])


def tcx_link_ifindex(fd: int) -> int:
    """The interface a tcx link sits on; 0 when it is gone. Source: struct bpf_link_info, tcx."""
    return int(struct.unpack_from("<I", _info(fd), 16)[0])


def program_id(fd: int) -> int:
    """The kernel's number of a loaded program. Source: struct bpf_prog_info."""
    return int(struct.unpack_from("<I", _info(fd), 4)[0])


def link_program(fd: int) -> int:
    """The id of the program a link runs. Source: struct bpf_link_info."""
    return int(struct.unpack_from("<I", _info(fd), 8)[0])


def program_maps(number: int) -> dict[str, int]:
    """The ids of the maps that the program of this id uses, by the name the kernel keeps; none where there is no such program.

    Shape: names have 15 characters at most. Source: struct bpf_prog_info, struct bpf_map_info.
    """
    ids = (ctypes.c_uint32 * _PROGRAM_MAPS)()
    fd = _fd_of(Command.PROG_GET_FD_BY_ID, number)
    if fd is None:
        return {}
    info = buffer(struct.pack("<52xIQ24x", _PROGRAM_MAPS, ctypes.addressof(ids)))
    try:
        checked(Command.OBJ_GET_INFO_BY_FD, struct.pack("<IIQ", fd, _INFO_BYTES, ctypes.addressof(info)))
    finally:
        os.close(fd)
    count = struct.unpack_from("<I", info.raw, 52)[0]
    return {name: number for number in ids[:count] if (name := _map_name(number))}


def _map_name(number: int) -> str:
    fd = _fd_of(Command.MAP_GET_FD_BY_ID, number)
    if fd is None:
        return ""
    try:
        return _info(fd)[24:40].split(b"\0")[0].decode()
    finally:
        os.close(fd)


def _fd_of(command: Command, number: int) -> int | None:
    fd, error = call(command, buffer(struct.pack("<III", number, 0, 0)))
    if error == errno.ENOENT:
        return None
    if error:
        raise KernelError(command.name, error, f"id {number}")
    return fd


def tcx_programs(ifindex: int, attach_type: AttachType) -> tuple[int, ...]:
    """The ids of the programs on a tcx hook, in the order they run; none where there is no such interface."""
    ids = (ctypes.c_uint32 * _TCX_PROGRAMS)()
    head = struct.pack("<IIIIQII", ifindex, attach_type, 0, 0, ctypes.addressof(ids), _TCX_PROGRAMS, 0)
    attr = buffer(head + bytes(32))
    _, error = call(Command.PROG_QUERY, attr)
    if error in (errno.ENODEV, errno.ENOENT):
        return ()
    if error:
        raise KernelError("PROG_QUERY", error, f"ifindex {ifindex}")
    return tuple(ids[: struct.unpack_from("<I", attr.raw, 24)[0]])


def create_map(map_type: MapType, key_size: int, value_size: int, max_entries: int, flags: int = 0) -> int:
    """A map without a name; for probes."""
    return checked(Command.MAP_CREATE, struct.pack("<5I", map_type, key_size, value_size, max_entries, flags))


def load_program(instructions: bytes, kind: int = SCHED_CLS, attach_type: int = 0) -> int:
    """A program from raw instructions; for probes. The KernelError's text ends with the verifier's."""
    code, licence, log = buffer(instructions), buffer(b"Dual BSD/GPL\0"), buffer(bytes(_LOG_BYTES))
    pointers = [ctypes.addressof(b) for b in (code, licence)]
    head = struct.pack("<IIQQ", kind, len(instructions) // 8, *pointers)
    rest = struct.pack("<IIQI24xI", 1, _LOG_BYTES, ctypes.addressof(log), 0, attach_type)
    result, error = call(Command.PROG_LOAD, buffer(head + rest + bytes(4)))
    if error:
        raise KernelError("PROG_LOAD", error, log.value.decode(errors="replace")[-256:])
    return result


def create_link(program_fd: int, target: int, attach_type: AttachType) -> int:
    """A tcx link on an interface of the caller's network namespace, or a link on an open cgroup directory."""
    attr = struct.pack("<IIII", program_fd, target, attach_type, 0) + bytes(32)
    return checked(Command.LINK_CREATE, attr, f"{attach_type.name.lower()} {target}")


def create_netfilter_link(program_fd: int, family: int, hook: int, priority: int) -> int:
    """A link in the stack of the caller's network namespace.

    Shape: `family` is an NFPROTO number, `hook` LOCAL_IN or POST_ROUTING. Raises: KernelError, of EBUSY when a program
    has the priority.
    """
    attr = struct.pack("<IIIIIIiI", program_fd, 0, NETFILTER, 0, family, hook, priority, 0) + bytes(16)
    return checked(Command.LINK_CREATE, attr, f"netfilter family {family} hook {hook}")


def update_link(link_fd: int, program_fd: int) -> None:
    """The link runs the new program from the next packet on."""
    checked(Command.LINK_UPDATE, struct.pack("<IIII", link_fd, program_fd, 0, 0))


def detach_link(link_fd: int) -> None:
    """The link runs nothing from now on."""
    checked(Command.LINK_DETACH, struct.pack("<I", link_fd))


def run_packet(program_fd: int, packet: bytes, mark: int = 0, priority: int = 0) -> TestRun:
    """Run a tc program over one packet on interface 1. Source: BPF_PROG_TEST_RUN; ctx is struct __sk_buff."""
    data, out = buffer(packet), buffer(bytes(len(packet) + 512))
    context = buffer(struct.pack("<III", 0, 0, mark) + bytes(20) + struct.pack("<I", priority) + bytes(156))
    attr = buffer(
        struct.pack("<IIIIQQII", program_fd, 0, len(packet), len(out), *map(ctypes.addressof, (data, out)), 1, 0)
        + struct.pack("<IIQQIII", len(context), len(context), *[ctypes.addressof(context)] * 2, 0, 0, 0)
        + bytes(4)
    )
    _, error = call(Command.PROG_TEST_RUN, attr)
    if error:
        raise KernelError("PROG_TEST_RUN", error)
    verdict, _, length = struct.unpack_from("<III", attr.raw, 4)
    duration_ns = struct.unpack_from("<I", attr.raw, 36)[0]
    return TestRun(verdict, out.raw[:length], duration_ns, struct.unpack_from("<I", context.raw, 32)[0])
