# SPDX-License-Identifier: Apache-2.0
"""Who is connected to the facade and what they have used; where the limits are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import grpc

from kvstore.facade.grant import Grant, Limits
from kvstore.limiter import Limiter
from meshkit.clock import Clock


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """One connection as the status shows it; `since_s` is wall-clock seconds."""

    name: str
    common_name: str
    address: str
    since_s: float
    streams: int
    watches: int
    bytes_sent: int
    requests: int


class Endable(Protocol):
    """Something a revocation ends."""

    def end(self, code: grpc.StatusCode, text: str) -> None:
        """It ends with this status, at once."""
        ...


@dataclass(slots=True)
class Client:
    """All connections of one grant name, and what they may use together."""

    requests: Limiter
    bytes: Limiter
    streams: int = 0


@dataclass(slots=True, eq=False)
class Connection:
    """One connection: its grant, its open calls, its use so far."""

    grant: Grant
    certificate: bytes
    common_name: str
    address: str
    since_s: float
    client: Client
    calls: set[Endable] = field(default_factory=set)
    streams: int = 0
    watches: int = 0
    private_watches: int = 0
    ranges: int = 0
    bytes_sent: int = 0
    requests: int = 0

    def info(self) -> ConnectionInfo:
        """What the status shows."""
        return ConnectionInfo(
            self.grant.name,
            self.common_name,
            self.address,
            self.since_s,
            self.streams,
            self.watches,
            self.bytes_sent,
            self.requests,
        )

    def charge(self, size: int) -> float:
        """Count bytes sent and say how many seconds to wait before sending more."""
        self.bytes_sent += size
        return self.client.bytes.reserve(size)


class Connections:
    """Every connection that has a call open, or had one a short while ago."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._limits, self._clock = limits, clock
        self._connections: dict[tuple[str, bytes], Connection] = {}
        self._clients: dict[str, Client] = {}

    def find(self, grant: Grant, certificate: bytes, common_name: str, address: str) -> Connection:
        """The connection of a connection, new if need be."""
        key = (address, certificate)
        connection = self._connections.get(key)
        if connection is None or connection.grant != grant:
            self._forget_idle()
            since_s, client = self._clock.wall(), self._client(grant.name)
            connection = Connection(grant, certificate, common_name, address, since_s, client)
            self._connections[key] = connection
        return connection

    def infos(self) -> list[ConnectionInfo]:
        """Every connection with a call open."""
        return sorted(
            (connection.info() for connection in self._connections.values() if connection.calls),
            key=lambda info: (info.name, info.address),
        )

    def certificates(self) -> set[bytes]:
        """The certificates of connections with a call open."""
        return {connection.certificate for connection in self._connections.values() if connection.calls}

    def cut(self, is_meant: Callable[[Connection], bool], code: grpc.StatusCode, text: str) -> int:
        """Every open call of the connections that are meant ends; returns how many did."""
        calls = [call for connection in self._connections.values() if is_meant(connection) for call in connection.calls]
        for call in calls:
            call.end(code, text)
        return len(calls)

    def _client(self, name: str) -> Client:
        limits = self._limits
        if name not in self._clients:
            self._clients[name] = Client(
                Limiter(limits.requests_per_s, limits.request_burst, self._clock),
                Limiter(limits.bytes_per_s, limits.bytes_burst, self._clock),
            )
        return self._clients[name]

    def _forget_idle(self) -> None:
        idle = [key for key, connection in self._connections.items() if not connection.calls]
        for key in idle:
            del self._connections[key]
        for name in set(self._clients) - {connection.grant.name for connection in self._connections.values()}:
            del self._clients[name]
