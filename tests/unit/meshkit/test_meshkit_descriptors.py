# SPDX-License-Identifier: Apache-2.0
"""A descriptor is watched only by who waits for it."""

from __future__ import annotations

import asyncio
import selectors
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from meshkit.descriptors import readable, writable

Use = Callable[[socket.socket, socket.socket], Coroutine[Any, Any, None]]


class _Counted(selectors.DefaultSelector):
    turns = 0

    def select(self, timeout: float | None = None) -> Any:
        self.turns += 1
        return super().select(timeout)


async def _later() -> None:
    """Fifty milliseconds in which nothing of ours goes on."""
    loop = asyncio.get_running_loop()
    timer: asyncio.Future[None] = loop.create_future()
    loop.call_later(0.05, timer.set_result, None)
    await timer


def turns_of(use: Use) -> int:
    """How often the loop looked at its descriptors while `use` ran with a pair of sockets that do not block."""
    selector = _Counted()
    loop = asyncio.SelectorEventLoop(selector)
    one, other = socket.socketpair()
    try:
        one.setblocking(False)
        other.setblocking(False)
        loop.run_until_complete(use(one, other))
    finally:
        one.close()
        other.close()
        loop.close()
    return selector.turns


def test_the_loop_does_not_turn_for_what_nobody_waits_for() -> None:
    async def use(one: socket.socket, other: socket.socket) -> None:
        other.send(b"first")
        await readable(one)
        await _later()
        assert one.recv(5) == b"first"
        await writable(one)
        await _later()

    assert turns_of(use) < 20


def test_what_comes_while_nobody_waits_is_there_for_who_waits_next() -> None:
    async def use(one: socket.socket, other: socket.socket) -> None:
        for word in (b"a", b"b"):
            other.send(word)
            await readable(one)
            assert one.recv(1) == word
        other.close()
        await readable(one)
        assert one.recv(1) == b"", "the end is something to read"

    turns_of(use)


def test_who_gives_up_waiting_leaves_nothing_behind() -> None:
    async def use(one: socket.socket, other: socket.socket) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(readable(one), 0.01)
        assert not asyncio.get_running_loop().remove_reader(one)
        other.send(b"later")
        await readable(one)

    turns_of(use)
