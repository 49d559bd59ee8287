# SPDX-License-Identifier: Apache-2.0
"""Followers over real connections: those that take nothing keep nobody out and hold a bounded amount."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Self

from fastapi import FastAPI, Response

from meshkit.followers import Followers
from meshkit.http import serve
from meshkit.rest import NotAnswered

LINE = b"x" * 65_536 + b"\n"
PLACES = 2


class Path:
    """A path that makes lines without end, and counts what it made for each follower."""

    def __init__(self, stalled_s: float) -> None:
        self.followers = Followers(PLACES, stalled_s=stalled_s)
        self.made: list[int] = []

    async def lines(self) -> AsyncIterator[bytes]:
        number = len(self.made)
        self.made.append(0)
        while True:
            self.made[number] += len(LINE)
            yield LINE
            await asyncio.sleep(0.001)


@asynccontextmanager
async def served(path: Path) -> AsyncIterator[int]:
    app = FastAPI()

    @app.get("/lines")
    async def lines() -> Response:
        try:
            return await path.followers.answer(path.lines(), "text/plain")
        except NotAnswered as refused:
            return Response(status_code=refused.status_code)

    port = asyncio.get_running_loop().create_future()
    server = asyncio.ensure_future(serve(app, "127.0.0.1", 0, on_started=port.set_result))
    try:
        yield await port
    finally:
        server.cancel()
        with suppress(asyncio.CancelledError):
            await server


class Client:
    """A connection that asked; `code` is the status of the answer. Nothing more of it is read unless told."""

    def __init__(self) -> None:
        self.socket, self.code = socket.socket(), 0
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.setblocking(False)

    async def ask(self, port: int) -> Self:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self.socket, ("127.0.0.1", port))
        await loop.sock_sendall(self.socket, b"GET /lines HTTP/1.1\r\nHost: x\r\n\r\n")
        self.code = int((await self.read(64)).split()[1])
        return self

    async def read(self, count: int = 1 << 16) -> bytes:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.socket, count), 10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


async def until_served(port: int, client: ExitStack) -> Client:
    """A follower that was let in, within ten seconds."""
    async with asyncio.timeout(10):
        while True:
            found = await client.enter_context(Client()).ask(port)
            if found.code == 200:
                return found
            await asyncio.sleep(0.05)


async def test_followers_that_take_nothing_make_room_for_others_and_hold_little() -> None:
    path = Path(stalled_s=0.5)
    async with served(path) as port:
        with ExitStack() as clients:
            idle = [await clients.enter_context(Client()).ask(port) for _ in range(PLACES + 1)]
            assert [client.code for client in idle] == [200] * PLACES + [429]
            reader = await until_served(port, clients)
            assert path.followers.stalled >= 1
            assert max(path.made) < 8 << 20
            for _ in range(100):  # longer than one that takes nothing is borne
                assert await reader.read()
                await asyncio.sleep(0.01)


async def test_one_that_is_slow_and_takes_what_it_is_sent_goes_on() -> None:
    path = Path(stalled_s=2.0)
    async with served(path) as port:
        with Client() as client:
            assert (await client.ask(port)).code == 200
            loop = asyncio.get_running_loop()
            end_s = loop.time() + 3.0
            while loop.time() < end_s:
                assert await client.read(4096)
            assert path.followers.stalled == 0
