# SPDX-License-Identifier: Apache-2.0
"""DNS by TCP: one query after the other on each connection, on a connection of the proxy's own to the same server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import Counter
from random import SystemRandom
from typing import Final

from agent.dns.datagrams import PATIENCE_S
from agent.dns.judge import AskedQuestion, Count, Judge
from agent.dns.message import LARGEST, SERVFAIL, MalformedMessageError, failure, forwarded, released
from agent.dns.sockets import Place, asking_stream

MOST_OF_A_CLIENT: Final = 32
_IDLE_S: Final = 10.0
_WHOLE_S: Final = 5.0
"""In which a message must have come whole, once its first byte came; and its answer must have been taken."""
_FOREIGN: Final = 16
"""Answers to other queries that are read before the connection is given up."""
_FAILURES: Final = (OSError, EOFError, MalformedMessageError)
"""A TimeoutError is an OSError."""


class StreamProxy:
    """Connections that programs hand to the listening sockets."""

    def __init__(self, judge: Judge) -> None:
        self._judge, self._rng = judge, SystemRandom()
        self._open: Counter[str] = Counter()

    async def serve(self, listener: socket.socket, port: int) -> asyncio.Server:
        """Takes the connections of a port of the proxy until the server is closed."""

        async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            client, server = writer.get_extra_info("peername"), writer.get_extra_info("sockname")
            with contextlib.closing(writer):
                if self._open[client[0]] >= MOST_OF_A_CLIENT:
                    self._judge.counts[Count.OVERLOADED] += 1
                    return
                self._open[client[0]] += 1
                try:
                    await self._converse(_Conversation(reader, writer, client, server), port)
                except _FAILURES:
                    return
                finally:
                    self._open[client[0]] -= 1
                    self._open += Counter()  # keeps what is positive

        return await asyncio.start_server(run, sock=listener)

    async def _converse(self, with_client: _Conversation, port: int) -> None:
        try:
            while True:
                data = await with_client.receive()
                judged = self._judge.read(data, with_client.client, with_client.server, port, "TCP")
                if isinstance(judged, bytes):
                    if not judged:
                        return
                    await with_client.send(judged)
                elif self._judge.begin(judged):
                    try:
                        answer = await self._ask(with_client, judged)
                    finally:
                        self._judge.end(judged)
                    await with_client.send(answer)
                else:
                    await with_client.send(failure(judged.query, SERVFAIL))
        finally:
            with_client.leave_server()

    async def _ask(self, with_client: _Conversation, asked: AskedQuestion) -> bytes:
        """What the client gets: the server's answer, or that there is none."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                if with_client.has_server:
                    with contextlib.suppress(EOFError, ConnectionError):  # servers close what was idle
                        return await self._ask_once(with_client, asked)
                    with_client.leave_server()
                return await self._ask_once(with_client, asked)
        except _FAILURES:
            self._judge.counts[Count.UNANSWERED] += 1
            with_client.leave_server()
            return failure(asked.query, SERVFAIL)

    async def _ask_once(self, with_client: _Conversation, asked: AskedQuestion) -> bytes:
        ident = self._rng.getrandbits(16)
        reader, writer = await with_client.with_server()
        await _send(writer, forwarded(asked.query, ident, by_udp=False))
        for _ in range(_FOREIGN):
            data = await _receive(reader)
            answer = self._judge.hear(asked, ident, data)
            if answer is not None:
                await self._judge.tell(asked, answer)
                return released(data, asked.query, LARGEST)
        raise MalformedMessageError("the server answers other queries")


class _Conversation:
    """A client's connection, and the one to its server that is opened when it is needed."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: Place, server: Place
    ) -> None:
        self._reader, self._writer, self.client, self.server = reader, writer, client, server
        self._upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def receive(self) -> bytes:
        async with asyncio.timeout(_IDLE_S):
            first = await self._reader.readexactly(1)
        async with asyncio.timeout(_WHOLE_S):
            length = int.from_bytes(first + await self._reader.readexactly(1), "big")
            return await self._reader.readexactly(length)

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(_WHOLE_S):
            await _send(self._writer, data)

    @property
    def has_server(self) -> bool:
        """Whether the connection to the server was opened for an earlier query."""
        return self._upstream is not None

    async def with_server(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._upstream is None:
            made = asking_stream(self.client[0], self.server[0])
            try:
                await asyncio.get_running_loop().sock_connect(made, self.server)
                self._upstream = await asyncio.open_connection(sock=made)
            except BaseException:
                made.close()
                raise
        return self._upstream

    def leave_server(self) -> None:
        if self._upstream is not None:
            self._upstream[1].close()
            self._upstream = None


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(struct.pack("!H", len(data)) + data)
    await writer.drain()


async def _receive(reader: asyncio.StreamReader) -> bytes:
    (length,) = struct.unpack("!H", await reader.readexactly(2))
    return await reader.readexactly(length)
