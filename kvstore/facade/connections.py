# SPDX-License-Identifier: Apache-2.0
"""Who is connected to the facade and what they have used; where the limits of a client are kept."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

import grpc

from kvstore.facade.grant import ClientLimits, Grant
from kvstore.limiter import Limiter
from meshkit.clock import Clock

log = logging.getLogger(__name__)

# a client that comes back sooner finds its limits as it left them
REMEMBERED_S: Final = 900.0
REPORT_S: Final = 60.0


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


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """Everybody who shares one set of limits, and how far they are used.

    `user` is the grant's name; `refused` counts calls beyond a limit; `limit` names the one met within the last minute.
    """

    name: str
    user: str
    connections: int
    streams: int
    watches: int
    in_flight_bytes: int
    refused: int
    limit: str


class Endable(Protocol):
    """Something a revocation ends."""

    def end(self, code: grpc.StatusCode, text: str) -> None:
        """It ends with this status, at once."""
        ...


class InFlight:
    """Bytes handed to gRPC and not yet taken by the client."""

    def __init__(self, limit: int) -> None:
        self._limit, self.bytes = limit, 0
        self._changed = asyncio.Event()

    async def wait_for_room(self) -> None:
        """More may be sent now; what is sent next may exceed the limit by one message."""
        while self.bytes >= self._limit:
            self._changed.clear()
            await self._changed.wait()

    def add(self, size: int) -> None:
        """So many bytes more are on their way; negative when they have arrived."""
        self.bytes += size
        if size < 0:
            self._changed.set()


class FacadeClient:
    """All connections that share one set of limits, and what they use together."""

    def __init__(self, name: str, user: str, limits: ClientLimits, clock: Clock) -> None:
        self.name, self.user, self._clock = name, user, clock
        self.requests = Limiter(limits.requests_per_s, limits.request_burst, clock)
        self.bytes = Limiter(limits.bytes_per_s, limits.bytes_burst, clock)
        self.etcd_time = Limiter(limits.etcd_s_per_s, limits.etcd_burst_s, clock)
        self.ranges_at_once = asyncio.Semaphore(limits.ranges_at_once_per_client)
        self.unpaged_at_once = asyncio.Semaphore(limits.unpaged_at_once_per_client)
        self.in_flight = InFlight(limits.in_flight_bytes_per_client)
        self.connections = self.streams = self.watches = self.private_watches = self.refused = 0
        self.used_at = clock.monotonic()
        self._reported_at = self._refused_at = float("-inf")
        self._limit = ""

    def refuse(self, limit: str) -> None:
        """Count a refusal; log the first one, then one a minute at most."""
        self.refused += 1
        self._limit, self._refused_at = limit, self._clock.monotonic()
        now = self._refused_at
        if now - self._reported_at >= REPORT_S:
            self._reported_at = now
            log.warning("client at its limit, refused", extra={"peer": self.name, "reason": limit})

    def info(self) -> ClientInfo:
        """What the status shows."""
        is_recent = self._clock.monotonic() - self._refused_at < REPORT_S
        return ClientInfo(
            self.name,
            self.user,
            self.connections,
            self.streams,
            self.watches,
            self.in_flight.bytes,
            self.refused,
            self._limit if is_recent else "",
        )


@dataclass(slots=True, eq=False)
class Connection:
    """One connection: its grant, its open calls, its use so far."""

    grant: Grant
    certificate: bytes
    common_name: str
    address: str
    since_s: float
    client: FacadeClient
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

    def may_begin(self, limits: ClientLimits) -> bool:
        """False if no call is open here and the client has as many other connections with open calls as it may."""
        return bool(self.calls) or self.client.connections < limits.connections_per_client

    def begin(self, call: Endable) -> None:
        """The call is open."""
        if not self.calls:
            self.client.connections += 1
        self.calls.add(call)
        self.requests += 1

    def finish(self, call: Endable) -> None:
        """The call is over."""
        self.calls.discard(call)
        if not self.calls:
            self.client.connections -= 1

    def charge(self, size: int) -> float:
        """Count bytes sent and say how many seconds to wait before sending more."""
        self.bytes_sent += size
        return self.client.bytes.reserve(size)


class Connections:
    """Every connection that has a call open, or had one a short while ago."""

    def __init__(self, limits: ClientLimits, clock: Clock) -> None:
        self._limits, self._clock = limits, clock
        self._connections: dict[tuple[str, bytes], Connection] = {}
        self._clients: dict[str, FacadeClient] = {}

    def find(self, grant: Grant, certificate: bytes, common_name: str, address: str) -> Connection:
        """The record of a connection, new if need be."""
        key = (address, certificate)
        connection = self._connections.get(key)
        if connection is None or connection.grant != grant:
            self._forget_idle()
            since_s, client = self._clock.wall(), self._client(client_name(grant, address), grant.name)
            connection = Connection(grant, certificate, common_name, address, since_s, client)
            self._connections[key] = connection
        connection.client.used_at = self._clock.monotonic()
        return connection

    def infos(self) -> list[ConnectionInfo]:
        """Every connection with a call open."""
        return sorted(
            (connection.info() for connection in self._connections.values() if connection.calls),
            key=lambda info: (info.name, info.address),
        )

    def clients(self) -> list[ClientInfo]:
        """Every client that is or was here of late."""
        return [client.info() for _, client in sorted(self._clients.items())]

    def certificates(self) -> set[bytes]:
        """The certificates of connections with a call open."""
        return {connection.certificate for connection in self._connections.values() if connection.calls}

    def cut(self, is_meant: Callable[[Connection], bool], code: grpc.StatusCode, text: str) -> int:
        """Every open call of the connections that are meant ends; returns how many did."""
        calls = [call for connection in self._connections.values() if is_meant(connection) for call in connection.calls]
        for call in calls:
            call.end(code, text)
        return len(calls)

    def _client(self, name: str, user: str) -> FacadeClient:
        if name not in self._clients:
            self._clients[name] = FacadeClient(name, user, self._limits, self._clock)
        return self._clients[name]

    def _forget_idle(self) -> None:
        idle = [key for key, connection in self._connections.items() if not connection.calls]
        for key in idle:
            del self._connections[key]
        before = self._clock.monotonic() - REMEMBERED_S
        in_use = {connection.client.name for connection in self._connections.values()}
        for name, client in list(self._clients.items()):
            if name not in in_use and client.used_at < before and not client.in_flight.bytes:
                del self._clients[name]


def client_name(grant: Grant, address: str) -> str:
    """Whose limits a connection counts for: the grant's name, with the host of the address if each counts alone."""
    return f"{grant.name} {address.rpartition(':')[0]}" if grant.is_per_address else grant.name
