# SPDX-License-Identifier: Apache-2.0
"""An event loop on its own time: when nothing is ready, time jumps to the next timer. No socket, no thread, no waiting.

Callbacks run in the order in which asyncio promises to run them. What belongs to a process carries that in its context, so
that a frozen process stands still while time goes on for the others.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from typing import Any, Final, Protocol

from greenlet import GreenletExit, getcurrent, greenlet

PROCESS: Final[ContextVar[str]] = ContextVar("PROCESS", default="")
"""The process that the running code belongs to; empty for the world itself."""


class Digest(Protocol):
    """What `hashlib` makes."""

    def update(self, data: bytes, /) -> None: ...


class StuckError(AssertionError):
    """Nothing is ready and no timer is set: whoever waits would wait for ever."""


class SimulatedTask(asyncio.Task[Any]):
    """Sets of tasks are walked in the order of their making, not of their addresses in memory."""

    def __init__(self, number: int, coro: Coroutine[Any, Any, Any], **kwargs: Any) -> None:
        self._number = number
        super().__init__(coro, **kwargs)

    def __hash__(self) -> int:
        return self._number


class Turn:
    """One call that the loop will make: what `asyncio.TimerHandle` is, with no more than that takes."""

    __slots__ = ("args", "callback", "context", "is_cancelled", "when_s")

    def __init__(self, when_s: float, callback: Callable[..., object], args: tuple[Any, ...], context: Context) -> None:
        self.when_s, self.callback, self.args, self.context = when_s, callback, args, context
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled, self.callback, self.args = True, _nothing, ()

    def cancelled(self) -> bool:
        return self.is_cancelled

    def when(self) -> float:
        return self.when_s


class SimulatedLoop(asyncio.BaseEventLoop):
    """`reachable` says whether a TCP connection to an address is answered: True, or False for silence."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self._turns: deque[Turn] = deque()
        self._timers: list[tuple[float, int, Turn]] = []
        self._numbers = itertools.count()
        self._held: dict[str, list[Turn]] = {}
        self._callers: dict[greenlet, None] = {}
        self._fuses: dict[str, tuple[int, Callable[[], None]]] = {}
        self.steps = 0
        self.reached: Counter[str] = Counter()
        self.digest: Digest | None = None
        self.reachable: Callable[[str], bool] = lambda _address: True
        self.errors: list[str] = []
        self.set_exception_handler(self._note_error)

    def time(self) -> float:
        return self.now_s

    get_debug = bool  # type: ignore[assignment]  # never; asked for each future, and this is no call of Python code

    # ---- processes that stand still

    def freeze(self, process: str) -> None:
        """Nothing of this process runs until `thaw`."""
        self._held.setdefault(process, [])

    def thaw(self, process: str) -> None:
        """What would have run meanwhile runs now."""
        self._turns.extend(self._held.pop(process, ()))

    def is_frozen(self, process: str) -> bool:
        return process in self._held

    def light_fuse(self, process: str, turns: int, end: Callable[[], None]) -> None:
        """`end` is called before the turn that the process takes after so many more."""
        self._fuses[process] = (turns, end)

    def leap(self, process: str, seconds: float) -> None:
        """Whatever the process waits for comes so much earlier, as for a machine that did not run meanwhile."""
        for at, (when_s, number, turn) in enumerate(self._timers):
            if turn.context.get(PROCESS, "") == process:
                self._timers[at] = (when_s - seconds, number, turn)
        heapq.heapify(self._timers)

    # ---- calls that block

    def start_caller(self, run: Callable[[], None]) -> None:
        """`run` may wait with a Baton; it begins in a turn of its own."""
        context = copy_context()

        def begin() -> None:
            def work() -> None:
                try:
                    context.run(run)
                finally:
                    self._callers.pop(getcurrent(), None)

            caller = greenlet(work)
            self._callers[caller] = None
            caller.switch()

        self.call_soon(begin)

    def run_in_executor(self, _executor: object, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        future = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except GreenletExit:
                raise
            except BaseException as exc:
                if not future.done():
                    future.set_exception(exc)
                return
            if not future.done():
                future.set_result(result)

        self.start_caller(work)
        return future

    def end_callers(self) -> None:
        """Blocking calls that are under way end where they are."""
        while self._callers:
            caller, _ = self._callers.popitem()
            caller.throw(GreenletExit)

    async def create_connection(self, _factory: object, host: str, *_: object, **__: object) -> Any:  # type: ignore[override]
        """Every node refuses, which says that it is there, or nobody answers."""
        if self.reachable(host):
            raise ConnectionRefusedError(f"{host}: refused")
        await self.create_future()

    # ---- what BaseEventLoop does for sockets and threads too

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Turn:  # type: ignore[override]
        turn = Turn(self.now_s, callback, args, copy_context() if context is None else context)
        self._turns.append(turn)
        return turn

    call_soon_threadsafe = call_soon  # type: ignore[assignment]  # there is one thread

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Turn:
        when = self.now_s + delay
        turn = Turn(when, callback, args, copy_context() if context is None else context)
        heapq.heappush(self._timers, (when, next(self._numbers), turn))
        return turn

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Turn:
        turn = Turn(when, callback, args, copy_context() if context is None else context)
        heapq.heappush(self._timers, (when, next(self._numbers), turn))
        return turn

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> SimulatedTask:
        return SimulatedTask(next(self._numbers), coro, loop=self, name=name, context=context)

    def _run_once(self) -> None:
        """Rounds, until the loop is to stop."""
        turns, timers = self._turns, self._timers
        while True:
            if not turns and not self._stopping:
                while timers and timers[0][2].is_cancelled:
                    heapq.heappop(timers)
                if not timers:
                    raise StuckError("nothing is ready and no timer is set")
                self.now_s = max(self.now_s, timers[0][0])
            while timers and timers[0][0] <= self.now_s:
                turns.append(heapq.heappop(timers)[2])
            for _ in range(len(turns)):
                turn = turns.popleft()
                if not turn.is_cancelled:
                    if (self._held or self._fuses or self.digest is not None) and not self._may_take(turn):
                        continue
                    self.steps += 1
                    try:
                        turn.context.run(turn.callback, *turn.args)
                    except (SystemExit, KeyboardInterrupt):
                        raise
                    except BaseException as exc:
                        self.errors.append(f"{getattr(turn.callback, '__qualname__', 'a callback')}: {exc!r}")
            if self._stopping:
                return

    def _may_take(self, turn: Turn) -> bool:
        """Whether its process runs. What is to happen before the turn has happened."""
        process = turn.context.get(PROCESS, "")
        if process in self._held:
            self._held[process].append(turn)
            return False
        self._burn(process)
        if self.digest is not None:
            self.digest.update(f"{self.now_s!r} {_name_of(turn)}\n".encode())
        return True

    def _burn(self, process: str) -> None:
        turns, end = self._fuses.get(process, (-1, _nothing))
        if turns > 0:
            self._fuses[process] = (turns - 1, end)
        elif turns == 0:
            del self._fuses[process]
            end()

    def _process_events(self, _events: object) -> None:
        return

    def _write_to_self(self) -> None:
        return

    def _note_error(self, _loop: object, context: dict[str, Any]) -> None:
        self.errors.append(f"{context.get('message')}: {context.get('exception')!r}")


class Nap:
    """What a task awaits while it sleeps: it goes on in the turn of the timer, where a future would take one turn more.

    Has what `asyncio.Task` asks of a future.
    """

    __slots__ = ("_asyncio_future_blocking", "_callback", "_context", "_delay_s", "_is_cancelled", "_loop", "_turn")

    def __init__(self, loop: SimulatedLoop, delay_s: float) -> None:
        self._loop, self._delay_s, self._is_cancelled = loop, delay_s, False

    def __await__(self) -> Generator[Nap, None, None]:
        self._asyncio_future_blocking = True
        yield self

    def add_done_callback(self, callback: Callable[..., object], *, context: Context) -> None:
        self._callback, self._context = callback, context
        self._turn = self._loop.call_later(self._delay_s, callback, self, context=context)

    def cancel(self, msg: object = None) -> bool:
        """The sleeper is woken with the cancellation. A task asks no future twice, and none that has woken it."""
        del msg
        self._is_cancelled = True
        self._turn.cancel()
        self._loop.call_soon(self._callback, self, context=self._context)
        return True

    def result(self) -> None:
        if self._is_cancelled:
            raise asyncio.CancelledError


async def sleep(delay_s: float) -> None:
    """So much simulated time passes, and at least one turn of everybody who is ready."""
    if delay_s <= 0:
        await asyncio.sleep(0)
        return
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    await Nap(loop, delay_s)


class Baton:
    """One wait of one blocking call. `wake` may be called at any time, and more than once."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop, self._caller, self._context = loop, getcurrent(), copy_context()
        if self._caller.parent is None:
            raise RuntimeError("a call that blocks was made on the loop; it would stop the program for real")
        self._is_woken = False

    def wake(self) -> None:
        if not self._is_woken:
            self._is_woken = True
            self._loop.call_soon(self._switch, context=self._context)

    def wait(self, timeout_s: float | None = None) -> None:
        """Until woken or for so long."""
        timer = None if timeout_s is None else self._loop.call_later(timeout_s, self._time_out, context=self._context)
        parent = self._caller.parent
        assert parent is not None
        parent.switch()
        if timer is not None:
            timer.cancel()

    def _time_out(self) -> None:
        if not self._is_woken:
            self._is_woken = True
            self._switch()

    def _switch(self) -> None:
        if not self._caller.dead:
            self._caller.switch()


class SimulatedFlag:
    """What `threading.Event` is to a blocking call."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop, self._is_set = loop, False
        self._waiting: list[Baton] = []

    def set(self) -> None:
        self._is_set = True
        waiting, self._waiting = self._waiting, []
        for baton in waiting:
            baton.wake()

    def is_set(self) -> bool:
        return self._is_set

    def wait(self, timeout: float) -> bool:
        if not self._is_set and timeout > 0:
            baton = Baton(self._loop)
            self._waiting.append(baton)
            baton.wait(timeout)
            if baton in self._waiting:
                self._waiting.remove(baton)
        return self._is_set


def _name_of(turn: Turn) -> str:
    """Whose turn it is and what goes on, the same in every run."""
    owner = getattr(turn.callback, "__self__", None)
    what = owner.get_coro() if isinstance(owner, asyncio.Task) else turn.callback
    return f"{turn.context.get(PROCESS, '')} {getattr(what, '__qualname__', type(what).__name__)}"


def _nothing() -> None:
    """What a cancelled turn does."""
