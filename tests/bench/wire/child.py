# SPDX-License-Identifier: Apache-2.0
"""One measurement in one fresh process: the parent's handle, and what the child has to speak with its parent.

A job is an `async def job(talk, **arguments) -> dict` at the top of a module of this package; arguments and answers are JSON. The
kernel ends a child whose parent is gone.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

Job = Callable[..., Awaitable[dict[str, Any]]]
TIMEOUT_S = 120.0
GUARD = ("setpriv", "--pdeathsig", "KILL", "--")


class Talk:
    """The child's side: lines of JSON out, lines of text in."""

    def say(self, **facts: Any) -> None:
        print(json.dumps(facts), flush=True)

    async def hear(self) -> str:
        """The parent's next word; empty when it wants us to end."""
        line: str = await asyncio.to_thread(sys.stdin.readline)
        return line.strip()


class Child:
    """The parent's side."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self._process, self._name = process, name
        self.pid = process.pid

    async def hear(self) -> dict[str, Any]:
        """The next facts the child says."""
        assert self._process.stdout is not None
        async with asyncio.timeout(TIMEOUT_S):
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} ended with {await self._process.wait()} before it answered")
        facts: dict[str, Any] = json.loads(line)
        return facts

    def say(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word.encode() + b"\n")

    async def ask(self, word: str) -> dict[str, Any]:
        self.say(word)
        return await self.hear()

    async def end(self) -> None:
        """It is gone, whatever it was doing."""
        if self._process.returncode is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                async with asyncio.timeout(5):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def child(job: Job, **arguments: Any) -> AsyncIterator[Child]:
    """The job in a process of its own, ended when the block is left."""
    name = f"{job.__module__}:{job.__name__}"
    command = (*GUARD, sys.executable, "-m", __name__, name, json.dumps(arguments))
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 22
    )
    running = Child(process, name)
    try:
        yield running
    finally:
        await running.end()


async def result(job: Job, **arguments: Any) -> dict[str, Any]:
    """What a job says that needs no conversation."""
    async with child(job, **arguments) as running:
        return await running.hear()


async def _main(name: str, arguments: dict[str, Any]) -> None:
    module, _, function = name.partition(":")
    talk = Talk()
    found = await getattr(importlib.import_module(module), function)(talk, **arguments)
    talk.say(**found)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], json.loads(sys.argv[2])))
