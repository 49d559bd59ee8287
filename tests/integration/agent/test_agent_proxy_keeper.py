# SPDX-License-Identifier: Apache-2.0
"""Proxies run while they are wanted, by real processes; how they fare is told to the agent, and that nobody tells it, too."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.proxy_states import ABSENT, DNS, ProxyState, ToldState, decode_states, encode_states
from agent.proxykeeper.kept_process import KeptProcess
from meshkit.backoff import Backoff
from meshkit.clock import SystemClock

LIMIT_S = 10.0


class Sleeper:
    """A program that does nothing; it answers when the test says so."""

    title = "the sleeper"

    def __init__(self) -> None:
        self.wish, self.command = "first", ["sleep", "60"]
        self.is_answering = True
        self.children: list[subprocess.Popen[bytes]] = []

    def wanted(self) -> str:
        return self.wish

    def start(self) -> subprocess.Popen[bytes]:
        self.children.append(subprocess.Popen(self.command))
        return self.children[-1]

    async def ask(self) -> None:
        if not self.is_answering:
            raise OSError("no answer")

    def last_words(self) -> str:
        return "an error"


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not what():  # noqa: ASYNC110 - processes end without an event of ours
            await asyncio.sleep(0.01)


async def test_it_runs_while_it_is_wanted_and_anew_when_it_is_wanted_otherwise() -> None:
    program, changes = Sleeper(), list[None]()
    kept = KeptProcess(program, Backoff(0.01, 0.1), SystemClock(), lambda: changes.append(None))
    task = asyncio.create_task(kept.run())
    await until(lambda: kept.state.pid != 0)
    first = program.children[0]
    program.wish = "second"
    await until(lambda: len(program.children) == 2 and kept.state.pid == program.children[1].pid)
    assert first.poll() == -signal.SIGTERM
    program.wish = ""
    await until(lambda: kept.state == ProxyState())
    assert program.children[1].poll() is not None
    program.wish = "third"
    await until(lambda: kept.state.pid == program.children[-1].pid)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [child.poll() is not None for child in program.children] == [True] * 3, "none is left"
    assert len(changes) >= 4


async def test_one_that_ends_is_started_again_and_its_last_words_are_told() -> None:
    program = Sleeper()
    program.command, program.is_answering = ["false"], False
    kept = KeptProcess(program, Backoff(0.01, 0.1), SystemClock(), lambda: None)
    task = asyncio.create_task(kept.run())
    await until(lambda: len(program.children) > 2)
    await until(lambda: kept.state == ProxyState(problem="the sleeper ended: an error"))
    program.command = ["sleep", "60"]
    await until(lambda: kept.state.pid != 0)
    assert kept.state.problem == "the sleeper ended: an error", "until it has answered"
    program.is_answering = True
    await until(lambda: kept.state.pid != 0 and not kept.state.problem)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_agent_hears_how_a_proxy_fares_and_that_nobody_tells(tmp_path: Path) -> None:
    told = ToldState(tmp_path / "proxies.sock", DNS, SystemClock(), lambda: None)
    listening = asyncio.create_task(told.run())
    await asyncio.sleep(0)
    assert (told.state, told.absence) == (ProxyState(), ABSENT)
    states = [{DNS: ProxyState(7)}, {DNS: ProxyState(7, True, "it stands still")}]
    go_on = asyncio.Event()

    async def tell(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for line in states:
            writer.write(encode_states(line))
            await go_on.wait()
            go_on.clear()
        writer.close()

    here = Path.cwd()
    os.chdir(tmp_path)  # the path of a socket is short
    server = await asyncio.start_unix_server(tell, "proxies.sock")
    os.chdir(here)
    await until(lambda: (told.state, told.absence) == (ProxyState(7), ""))
    go_on.set()
    await until(lambda: told.state == ProxyState(7, True, "it stands still"))
    server.close()
    go_on.set()
    await until(lambda: (told.state, told.absence) == (ProxyState(), ABSENT))
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


@pytest.mark.parametrize(
    "line", [b"[]\n", b"7\n", b'{"dns": 7}\n', b'{"dns": [1, 2]}\n', b'{"dns": ["x", 0, ""]}\n', b"{\n"]
)
def test_what_is_no_state_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any of them is caught
        decode_states(line)
