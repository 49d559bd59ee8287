# SPDX-License-Identifier: Apache-2.0
"""DNS by UDP: each query goes on from a port and under an id of its own, so that nobody can guess where an answer belongs."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from random import SystemRandom
from typing import Final

from agent.dns.judge import AskedQuestion, Count, Judge
from agent.dns.message import (
    LARGEST,
    LARGEST_UDP,
    SERVFAIL,
    MalformedMessageError,
    ServerAnswer,
    failure,
    forwarded,
    released,
)
from agent.dns.sockets import Place, answer_datagram, asking_datagrams, receive

PATIENCE_S: Final = 6.0
"""How long a server is waited for. Resolvers ask again after five seconds."""
_AT_ONCE: Final = 64
"""Datagrams that are read from one socket before others have their turn."""
_FIRST_PORT, _LAST_PORT = 1024, 65535
_TRIES: Final = 4


class DatagramProxy:
    """`answering` is the socket that answers are sent by."""

    def __init__(self, judge: Judge, answering: socket.socket) -> None:
        self._judge, self._answering, self._rng = judge, answering, SystemRandom()
        self._tasks: set[asyncio.Task[None]] = set()

    def serve(self, listener: socket.socket, port: int) -> Callable[[], None]:
        """Takes the queries of a port of the proxy; what is returned ends that and closes the socket."""
        loop = asyncio.get_running_loop()

        def read() -> None:
            for _ in range(_AT_ONCE):
                found = receive(listener, LARGEST)
                if found is None:
                    return
                self.take(*found, port)

        def stop() -> None:
            loop.remove_reader(listener)
            listener.close()

        loop.add_reader(listener, read)
        return stop

    def take(self, data: bytes, client: Place, server: Place, port: int) -> None:
        """A query that came to this port of the proxy, from the client to the server."""
        judged = self._judge.read(data, client, server, port, "UDP")
        if isinstance(judged, bytes):
            self._send(server, client, judged)
        elif not self._judge.begin(judged):
            self._send(server, client, failure(judged.query, SERVFAIL))
        else:
            _Exchange(self, self._judge, judged, self._rng).start()

    def _send(self, server: Place, client: Place, data: bytes) -> None:
        if not data:
            return
        try:
            self._answering.sendto(answer_datagram(server, client, data), (client[0], 0))
        except OSError:
            self._judge.counts[Count.UNSENT] += 1

    def fail(self, asked: AskedQuestion) -> None:
        """The server gave no answer that can be passed on."""
        self._send(asked.server, asked.client, failure(asked.query, SERVFAIL))

    def release(self, asked: AskedQuestion, answer: ServerAnswer, data: bytes) -> None:
        """The client gets the answer once those who must know have heard of it."""
        task = asyncio.get_running_loop().create_task(self._release(asked, answer, data))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _release(self, asked: AskedQuestion, answer: ServerAnswer, data: bytes) -> None:
        await self._judge.tell(asked, answer)
        limit = min(asked.query.udp_size, LARGEST_UDP)
        self._send(asked.server, asked.client, released(data, asked.query, limit))


class _Exchange:
    """One query at its server."""

    __slots__ = ("_asked", "_ident", "_judge", "_proxy", "_rng", "_socket", "_timer")

    def __init__(self, proxy: DatagramProxy, judge: Judge, asked: AskedQuestion, rng: SystemRandom) -> None:
        self._proxy, self._judge, self._asked, self._rng = proxy, judge, asked, rng
        self._ident = rng.getrandbits(16)

    def start(self) -> None:
        """Ask."""
        try:
            self._socket = self._open()
        except OSError:
            self._judge.end(self._asked)
            self._judge.counts[Count.UNSENT] += 1
            self._proxy.fail(self._asked)
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(PATIENCE_S, self._give_up)
        loop.add_reader(self._socket, self._read)
        with contextlib.suppress(OSError):  # as if it was lost on its way
            self._socket.send(forwarded(self._asked.query, self._ident, by_udp=True))

    def _open(self) -> socket.socket:
        for _ in range(_TRIES - 1):
            with contextlib.suppress(OSError):
                return self._open_at_random()
        return self._open_at_random()

    def _open_at_random(self) -> socket.socket:
        port = self._rng.randint(_FIRST_PORT, _LAST_PORT)
        return asking_datagrams(self._asked.client[0], port, self._asked.server)

    def _read(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                data = self._socket.recv(LARGEST)
            except BlockingIOError:
                return
            except OSError:  # no server is there
                self._end()
                self._judge.counts[Count.UNANSWERED] += 1
                self._proxy.fail(self._asked)
                return
            try:
                answer = self._judge.hear(self._asked, self._ident, data)
            except MalformedMessageError:
                self._end()
                self._proxy.fail(self._asked)
                return
            if answer is not None:
                self._end()
                self._proxy.release(self._asked, answer, data)
                return

    def _give_up(self) -> None:
        self._end()
        self._judge.counts[Count.UNANSWERED] += 1

    def _end(self) -> None:
        self._timer.cancel()
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._judge.end(self._asked)
