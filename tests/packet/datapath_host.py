# SPDX-License-Identifier: Apache-2.0
"""A place to load the datapath: a bpffs of its own and network namespaces that are gone afterwards."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

from agent.datapath.syscall import AttachType
from tests.support.leftovers import own_name

_BPF_SYSCALL = {"x86_64": 321, "aarch64": 280}
_PROG_QUERY = 16
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
BPF_DIRECTORY = Path(__file__).parents[2] / "agent" / "datapath" / "bpf"


def run(*command: str) -> str:
    """Output of a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
    return done.stdout


def build_objects() -> None:
    """The objects are as new as their sources."""
    sources = max(p.stat().st_mtime for p in BPF_DIRECTORY.iterdir() if p.suffix in {".c", ".h"})
    objects = [p.with_suffix(".o") for p in BPF_DIRECTORY.glob("*.bpf.c")]
    if any(not p.exists() or p.stat().st_mtime < sources for p in objects):
        run(str(BPF_DIRECTORY / "build.sh"))


@contextlib.contextmanager
def bpffs(directory: Path) -> Iterator[Path]:
    """A bpffs mounted there; no directory is left."""
    directory.mkdir(parents=True, exist_ok=True)
    run("mount", "-t", "bpf", own_name("pins"), str(directory))
    try:
        yield directory
    finally:
        run("umount", "-l", str(directory))
        directory.rmdir()


@contextlib.contextmanager
def namespace(name: str) -> Iterator[str]:
    """A network namespace of that name with its loopback up."""
    run("ip", "netns", "add", name)
    try:
        run("ip", "-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        run("ip", "netns", "del", name)


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """This thread, and threads it starts, are in the namespace."""
    own, other = os.open("/proc/self/ns/net", os.O_RDONLY), os.open(f"/var/run/netns/{name}", os.O_RDONLY)
    try:
        assert _libc.setns(other, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        yield
    finally:
        assert _libc.setns(own, _CLONE_NEWNET) == 0
        os.close(own)
        os.close(other)


def tcx_programs(device: str) -> int:
    """Programs on the tcx hooks of a device of this thread's namespace; bpftool of Debian 12 does not list them."""
    total = 0
    for attach_type in (AttachType.TCX_INGRESS, AttachType.TCX_EGRESS):
        attr = ctypes.create_string_buffer(
            struct.pack("<IIIIQI", socket.if_nametoindex(device), attach_type, 0, 0, 0, 0), 64
        )
        assert _libc.syscall(_BPF_SYSCALL[os.uname().machine], _PROG_QUERY, attr, len(attr)) == 0, os.strerror(
            ctypes.get_errno()
        )
        total += struct.unpack_from("<I", attr.raw, 24)[0]
    return total
