# SPDX-License-Identifier: Apache-2.0
"""How a node's proxies fare, as the program that keeps them tells it at a socket: a line of JSON on each change, and each second.

Shape of a line: {"envoy": [pid, is_silent, problem], "dns": [...]}; the pid is 0 while it does not run.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import orjson

from meshkit.backoff import Backoff
from meshkit.clock import Clock
from meshkit.errors import TransientError
from meshkit.patience import within
from meshkit.supervise import supervise

ENVOY: Final = "envoy"
DNS: Final = "dns"
EVERY_S: Final = 1.0
"""A line comes at least so often."""
ABSENT: Final = "clustermesh-proxies does not run on this node"
_PATIENCE_S: Final = 3 * EVERY_S
_LONGEST_LINE: Final = 16_384
_FIRST_DELAY_S: Final = 0.1
_LONGEST_DELAY_S: Final = 0.5
_SILENT: Final = "clustermesh-proxies of this node stands still"


class KeeperError(TransientError):
    """Nobody tells how the proxies fare, or what is said is no state."""


class ProxyState(NamedTuple):
    """One proxy. `is_silent`: it is there and answers nothing."""

    pid: int = 0
    is_silent: bool = False
    problem: str = ""


def encode_states(states: Mapping[str, ProxyState]) -> bytes:
    """A line."""
    return orjson.dumps({name: list(state) for name, state in states.items()}) + b"\n"


def decode_states(line: bytes) -> dict[str, ProxyState]:
    """Inverse of `encode_states`. Raises: ValueError."""
    said = orjson.loads(line)
    try:
        return {
            str(name): ProxyState(int(pid), bool(silent), str(problem)) for name, (pid, silent, problem) in said.items()
        }
    except (AttributeError, TypeError) as exc:
        raise ValueError(f"no states of proxies: {exc!r}") from exc


class ToldState:
    """What is told of the proxy `name`. `on_change` is called when `state` or `absence` are others."""

    def __init__(self, path: Path, name: str, clock: Clock, on_change: Callable[[], None]) -> None:
        self._path, self._name, self._clock, self._on_change = path, name, clock, on_change
        self.state = ProxyState()
        """As it was told last; a proxy that nobody tells of does not run as far as anybody knows."""
        self.absence = ABSENT
        """Why nobody tells; empty while somebody does."""

    async def run(self) -> None:
        """Until cancelled."""
        backoff = Backoff(_FIRST_DELAY_S, _LONGEST_DELAY_S)

        def note(exc: BaseException, _delay_s: float) -> None:
            self._set(ProxyState(), _SILENT if isinstance(exc, TimeoutError) else ABSENT)

        await supervise(f"state of {self._name}", self._listen, backoff=backoff, clock=self._clock, on_failure=note)

    async def _listen(self) -> None:
        """Raises: OSError, KeeperError, TimeoutError."""
        descriptor = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY)  # paths of sockets are short
        try:
            place = f"/proc/self/fd/{descriptor}/{self._path.name}"
            reader, writer = await asyncio.open_unix_connection(place, limit=_LONGEST_LINE)
        finally:
            os.close(descriptor)
        try:
            while line := await within(_PATIENCE_S, reader.readline()):
                self._set(decode_states(line).get(self._name, ProxyState()), "")
        except ValueError as exc:
            raise KeeperError(f"what is said of proxies cannot be read: {exc}") from exc
        finally:
            writer.close()
        raise KeeperError("the program that keeps the proxies went away")

    def _set(self, state: ProxyState, absence: str) -> None:
        if (state, absence) != (self.state, self.absence):
            self.state, self.absence = state, absence
            self._on_change()
