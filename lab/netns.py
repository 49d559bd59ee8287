# SPDX-License-Identifier: Apache-2.0
"""Act inside another network namespace: for a moment on this thread, or as a command."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pyroute2 import IPRoute

from lab.names import netns_path

CLONE_NEWNET: Final = 0x40000000
_libc: Final = ctypes.CDLL(None, use_errno=True)


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")


@contextmanager
def inside(name: str) -> Iterator[None]:
    """The calling thread is in the named namespace until the block ends; never await within."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        target = os.open(netns_path(name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(target)
        finally:
            os.close(target)
        try:
            yield
        finally:
            _setns(own)
    finally:
        os.close(own)


def create(name: str) -> None:
    """The named namespace exists. Raises: CalledProcessError if it did already."""
    # not pyroute2's way, which forks this process with all its signal handlers
    subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)


def remove(name: str) -> None:
    """The named namespace is gone; absent is success."""
    subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
    netns_path(name).unlink(missing_ok=True)


@contextmanager
def links_of(name: str) -> Iterator[IPRoute]:
    """Netlink to the named namespace; the calling thread stays where it is."""
    with inside(name):
        handle = IPRoute()
    try:
        yield handle
    finally:
        handle.close()


@contextmanager
def descriptor_of(name: str) -> Iterator[int]:
    """An open file descriptor that stands for the namespace."""
    descriptor = os.open(netns_path(name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def socket_inside(name: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """A socket that stays in the named namespace whoever uses it."""
    with inside(name):
        return socket.socket(socket.AF_INET, kind)


def listen_inside(name: str, address: str, port: int) -> socket.socket:
    """A listening socket of the named namespace."""
    listener = socket_inside(name)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen(128)
    listener.setblocking(False)
    return listener


def write_sysctls(name: str, settings: Sequence[tuple[str, str]]) -> None:
    """Every `net/…` setting has its value in the named namespace."""
    with inside(name):
        for key, value in settings:
            Path("/proc/sys", key).write_text(value)


def command_inside(name: str, command: Sequence[str]) -> list[str]:
    """The same command, run with the named network namespace."""
    return ["nsenter", f"--net={netns_path(name)}", "--", *command]


def add_link(handle: IPRoute, ifname: str, **options: object) -> None:
    """A new interface of that name, with options as pyroute2 names them."""
    handle.link("add", ifname=ifname, **options)


def index_of(handle: IPRoute, ifname: str) -> int:
    """The number of an interface. Raises: IndexError if there is none."""
    found: list[int] = list(handle.link_lookup(ifname=ifname))
    return found[0]
