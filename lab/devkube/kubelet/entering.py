# SPDX-License-Identifier: Apache-2.0
"""Commands inside a running container: to the end with their output, or as a session with streams and a terminal."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import pty
import signal
import struct
import termios
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from lab.devkube.api.runtime import ExecRequest, Output
from lab.devkube.kubelet.process import ContainerProcess, children_of
from meshkit.descriptors import readable, writable

CHUNK: Final = 65536
# a command may leave children that hold its streams: this long after its end a silent stream counts as done
SILENCE_S: Final = 0.5


def kill_tree(pid: int) -> None:
    """The process and all its descendants are killed, the youngest last to be found."""
    for child in children_of(pid):
        kill_tree(child)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


async def run_to_end(process: ContainerProcess, command: Sequence[str]) -> tuple[int, bytes]:
    """Exit code and output of a command in the container; cancelled, the command is killed."""
    child = await asyncio.create_subprocess_exec(
        *process.enter(command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=dict(process.launch.environment),
        start_new_session=True,
    )
    try:
        output, _ = await child.communicate()
    except BaseException:
        kill_tree(child.pid)
        raise
    return exit_code(child.returncode), output


def exit_code(code: int | None) -> int:
    """As a shell counts: 128 and the signal's number where a signal ended it."""
    if code is None:
        return 137
    return code if code >= 0 else 128 - code


class TerminalSession:
    """One interactive command in a container, as the API server's exec endpoint drives it."""

    def __init__(self, child: asyncio.subprocess.Process, terminal: int | None) -> None:
        self._child, self._terminal = child, terminal
        self._pumps: list[asyncio.Task[None]] = []

    def pump(self, source: int | asyncio.StreamReader | None, output: Output) -> None:
        if source is not None:
            self._pumps.append(asyncio.create_task(self._copy(source, output), name="exec-output"))

    async def write(self, data: bytes) -> None:
        if self._terminal is not None:
            await _write_all(self._terminal, data)
        elif self._child.stdin is not None:
            with suppress(BrokenPipeError, ConnectionResetError):
                self._child.stdin.write(data)
                await self._child.stdin.drain()

    async def close_stdin(self) -> None:
        if self._terminal is not None:
            await _write_all(self._terminal, b"\x04")
        elif self._child.stdin is not None:
            self._child.stdin.close()

    def resize(self, width: int, height: int) -> None:
        if self._terminal is not None:
            with suppress(OSError):
                fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def kill(self) -> None:
        if self._child.returncode is None:
            kill_tree(self._child.pid)

    async def wait(self) -> int:
        try:
            code = await self._child.wait()
            for pump in self._pumps:
                await pump
            return exit_code(code)
        finally:
            for pump in self._pumps:
                pump.cancel()
            if self._terminal is not None:
                os.close(self._terminal)
                self._terminal = None

    async def _copy(self, source: int | asyncio.StreamReader, output: Output) -> None:
        while True:
            try:
                async with asyncio.timeout(SILENCE_S):
                    data = await (_read_terminal(source) if isinstance(source, int) else source.read(CHUNK))
            except TimeoutError:
                if self._child.returncode is None:
                    continue
                return
            if not data:
                return
            await output(data)


async def open_session(
    process: ContainerProcess, request: ExecRequest, stdout: Output, stderr: Output
) -> TerminalSession:
    """Start the command; its output goes to the two callbacks. Raises: OSError."""
    environment = dict(process.launch.environment)
    if not request.tty:
        child = await asyncio.create_subprocess_exec(
            *process.enter(request.command),
            stdin=asyncio.subprocess.PIPE if request.stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        session = TerminalSession(child, None)
        session.pump(child.stdout, stdout)
        session.pump(child.stderr, stderr)
        return session
    master, slave = pty.openpty()
    try:
        # inside, so that the command leads a session of its own and a shell has job control
        argv = process.enter(["setsid", "--ctty", "--wait", *request.command])
        environment.setdefault("TERM", "xterm")
        child = await asyncio.create_subprocess_exec(
            *argv, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
        )
    except BaseException:
        os.close(master)
        raise
    finally:
        os.close(slave)
    os.set_blocking(master, False)
    session = TerminalSession(child, master)
    session.pump(master, stdout)
    return session


async def _read_terminal(descriptor: int) -> bytes:
    while True:
        try:
            return os.read(descriptor, CHUNK)
        except BlockingIOError:
            await readable(descriptor)
        except OSError as exc:
            if exc.errno == errno.EIO:
                return b""
            raise


async def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            await writable(descriptor)
        except OSError:
            return
