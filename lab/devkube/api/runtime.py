# SPDX-License-Identifier: Apache-2.0
"""What the API server asks of whoever runs the pods; the kubelet implements it, tests fake it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from lab.devkube.api.objects import Obj

Output = Callable[[bytes], Awaitable[None]]
"""Takes a piece of a process's output; awaiting it is the back-pressure."""


@dataclass(frozen=True, slots=True)
class ExecRequest:
    """A command to run in a pod. An empty container means the pod's only or first one."""

    container: str
    command: tuple[str, ...]
    tty: bool = False
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Which part of a container's log. Units: seconds and bytes; None means no limit."""

    container: str = ""
    follow: bool = False
    tail_lines: int | None = None
    previous: bool = False
    since_s: int | None = None
    timestamps: bool = False
    limit_bytes: int | None = None


class ExecSession(Protocol):
    """One command running in a pod."""

    async def write(self, data: bytes) -> None:
        """Pass data to the command's standard input."""

    async def close_stdin(self) -> None:
        """The command reads end of file from here on."""

    def resize(self, width: int, height: int) -> None:
        """Set the terminal's size in characters; without a terminal nothing happens."""

    def kill(self) -> None:
        """End the command now; a command that has ended is left alone."""

    async def wait(self) -> int:
        """The exit code, after all output has been handed over."""


class Runtime(Protocol):
    """Access to running pods. Methods raise ApiError where the request cannot be met."""

    async def exec(self, pod: Obj, request: ExecRequest, stdout: Output, stderr: Output) -> ExecSession:
        """Start a command; its output arrives through the two callbacks (all of it through stdout with a terminal)."""

    def logs(self, pod: Obj, options: LogOptions) -> AsyncIterator[bytes]:
        """The log, ending at its present end, or with the container if it is to be followed."""

    async def open_connection(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A TCP connection as seen from the control-plane node. Raises OSError if there is none to be had."""
