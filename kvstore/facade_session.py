# SPDX-License-Identifier: Apache-2.0
"""Who is connected to the facade and what they have used; where the limits are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import grpc

from kvstore.facade_grant import Grant, Limits
from kvstore.limiter import Limiter
from meshkit.clock import Clock


@dataclass(frozen=True, slots=True)
class SessionInfo:
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
class Peer:
    """All connections of one grant name, and what they may use together."""

    requests: Limiter
    bytes: Limiter
    streams: int = 0


@dataclass(slots=True, eq=False)
class Session:
    """One connection: its grant, its open calls, its use so far."""

    grant: Grant
    certificate: bytes
    common_name: str
    address: str
    since_s: float
    peer: Peer
    calls: set[Endable] = field(default_factory=set)
    streams: int = 0
    watches: int = 0
    private_watches: int = 0
    ranges: int = 0
    bytes_sent: int = 0
    requests: int = 0

    def info(self) -> SessionInfo:
        """What the status shows."""
        return SessionInfo(
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
        return self.peer.bytes.reserve(size)


class Sessions:
    """Every connection that has a call open, or had one a short while ago."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._limits, self._clock = limits, clock
        self._sessions: dict[tuple[str, bytes], Session] = {}
        self._peers: dict[str, Peer] = {}

    def find(self, grant: Grant, certificate: bytes, common_name: str, address: str) -> Session:
        """The session of a connection, new if need be."""
        key = (address, certificate)
        session = self._sessions.get(key)
        if session is None or session.grant != grant:
            self._forget_idle()
            since_s, peer = self._clock.wall(), self._peer(grant.name)
            session = Session(grant, certificate, common_name, address, since_s, peer)
            self._sessions[key] = session
        return session

    def infos(self) -> list[SessionInfo]:
        """Every connection with a call open."""
        return sorted(
            (session.info() for session in self._sessions.values() if session.calls),
            key=lambda info: (info.name, info.address),
        )

    def certificates(self) -> set[bytes]:
        """The certificates of connections with a call open."""
        return {session.certificate for session in self._sessions.values() if session.calls}

    def cut(self, is_meant: Callable[[Session], bool], code: grpc.StatusCode, text: str) -> int:
        """Every open call of the sessions that are meant ends; returns how many did."""
        calls = [call for session in self._sessions.values() if is_meant(session) for call in session.calls]
        for call in calls:
            call.end(code, text)
        return len(calls)

    def _peer(self, name: str) -> Peer:
        limits = self._limits
        if name not in self._peers:
            self._peers[name] = Peer(
                Limiter(limits.requests_per_s, limits.request_burst, self._clock),
                Limiter(limits.bytes_per_s, limits.bytes_burst, self._clock),
            )
        return self._peers[name]

    def _forget_idle(self) -> None:
        idle = [key for key, session in self._sessions.items() if not session.calls]
        for key in idle:
            del self._sessions[key]
        for name in set(self._peers) - {session.grant.name for session in self._sessions.values()}:
            del self._peers[name]
