# SPDX-License-Identifier: Apache-2.0
"""One process that runs while it is wanted: started, asked whether it answers, ended when it does not, started again."""

from __future__ import annotations

import asyncio
import logging
import subprocess
from collections.abc import Callable
from typing import Final, Protocol

from agent.proxy_states import ProxyState
from meshkit.backoff import Backoff
from meshkit.clock import Clock
from meshkit.errors import TransientError
from meshkit.supervise import supervise

SILENT_S: Final = 3.0
"""A process that answers nothing for so long is said to stand still,"""
ENDED_S: Final = 8.0
"""and is ended after so long;"""
STARTED_S: Final = 30.0
"""one that has not answered yet may take so long."""
_LOOK_S: Final = 0.1
_ASK_S: Final = 0.5
_END_S: Final = 5.0

log = logging.getLogger(__name__)


class ProcessEndedError(TransientError):
    """It ended, had to be ended, or could not be started."""


class Program(Protocol):
    """What is kept running. `title` is what people are told of it."""

    @property
    def title(self) -> str: ...

    def wanted(self) -> str:
        """What it is to be started with: another one when that changes; empty while it shall not run."""

    def start(self) -> subprocess.Popen[bytes]:
        """Raises: OSError."""

    async def ask(self) -> None:
        """Returns when the process that was started last has answered, or said by itself that it is well. Raises: OSError."""

    def last_words(self) -> str:
        """The last line of its log that tells of an error."""


class KeptProcess:
    """`on_change` is called when `state` is another. A silent process is ended by SIGKILL: it would hear nothing else."""

    def __init__(self, program: Program, backoff: Backoff, clock: Clock, on_change: Callable[[], None]) -> None:
        self._program, self._backoff, self._clock, self._on_change = program, backoff, clock, on_change
        self.state = ProxyState()

    async def run(self) -> None:
        """Until cancelled; then the process has ended too."""
        await supervise(
            self._program.title, self._keep, backoff=self._backoff, clock=self._clock, on_failure=self._note
        )

    async def _keep(self) -> None:
        """Raises: ProcessEndedError."""
        while True:
            while not (wanted := self._program.wanted()):
                self._set(ProxyState())
                await self._clock.sleep(_LOOK_S)
            try:
                child = self._program.start()
            except OSError as exc:
                raise ProcessEndedError(f"{self._program.title} cannot be started: {exc}") from exc
            log.info("started", extra={"task": self._program.title, "key": child.pid})
            try:
                await self._watch(child, wanted)
            finally:
                await _end(child)

    async def _watch(self, child: subprocess.Popen[bytes], wanted: str) -> None:
        """Returns when another one is wanted. Raises: ProcessEndedError."""
        said, has_answered = self.state.problem, False
        answered_s = asked_s = self._clock.monotonic()
        asking: asyncio.Task[bool] | None = None
        try:
            while self._program.wanted() == wanted:
                now_s = self._clock.monotonic()
                if child.poll() is not None:
                    words = self._program.last_words() or "it said nothing"
                    raise ProcessEndedError(f"{self._program.title} ended: {words}")
                if asking is None and now_s - asked_s >= _ASK_S:
                    asking, asked_s = asyncio.create_task(_answers(self._program)), now_s
                if asking is not None and asking.done():
                    if asking.result():
                        answered_s, said, has_answered = now_s, "", True
                    asking = None
                silent_s = now_s - answered_s
                if silent_s >= (ENDED_S if has_answered else STARTED_S):
                    child.kill()
                    raise ProcessEndedError(
                        f"{self._program.title} answered nothing for {silent_s:.0f} s and was ended"
                    )
                is_silent = has_answered and silent_s >= SILENT_S
                problem = f"{self._program.title} stands still: it answers nothing" if is_silent else said
                self._set(ProxyState(child.pid, is_silent, problem))
                await self._clock.sleep(_LOOK_S)
        finally:
            if asking is not None:
                asking.cancel()
                await asyncio.wait((asking,))

    def _note(self, exc: BaseException, _delay_s: float) -> None:
        self._set(ProxyState(problem=str(exc)))

    def _set(self, state: ProxyState) -> None:
        if state != self.state:
            self.state = state
            self._on_change()


async def _answers(program: Program) -> bool:
    try:
        await program.ask()
    except OSError:
        return False
    return True


async def _end(child: subprocess.Popen[bytes]) -> None:
    """It has ended, by itself if it manages within a time."""
    child.terminate()
    try:
        await asyncio.to_thread(child.wait, _END_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
