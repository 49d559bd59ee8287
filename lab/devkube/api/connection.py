# SPDX-License-Identifier: Apache-2.0
"""uvicorn's HTTP connection with two things it lacks: client certificates, and handing a socket over to SPDY."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from lab.devkube.api.error import ApiError, bad_request
from lab.devkube.api.exec import ExecCall
from lab.devkube.api.exec_spdy import SUBPROTOCOL, UPGRADE, SpdyExec
from lab.devkube.api.http import Scope, error_response
from lab.devkube.api.runtime import Runtime

_SUBJECT = "client_subject"

Subject = dict[str, tuple[str, ...]]


class ExecServer(Protocol):
    """What a connection needs of the server to start a command by itself."""

    runtime: Runtime

    def resolve_exec(self, scope: Scope) -> ExecCall:
        """Raises ApiError if the caller is unknown or the call makes no sense."""


def subject_of_scope(scope: Scope) -> Subject | None:
    """The subject of the verified client certificate; None if the client showed none."""
    subject: Subject | None = (scope.get("state") or {}).get(_SUBJECT)
    return subject


def subject_of_certificate(certificate: Mapping[str, Any]) -> Subject:
    """Values by attribute name, from what the ssl module tells of a certificate."""
    subject: Subject = {}
    for relative_name in certificate.get("subject", ()):
        for name, value in relative_name:
            subject[name] = (*subject.get(name, ()), value)
    return subject


def connection_class(server: ExecServer) -> type[H11Protocol]:
    """The class of connections that serve this server."""

    class ClientConnection(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if certificate := transport.get_extra_info("peercert"):
                self.app_state = {**self.app_state, _SUBJECT: subject_of_certificate(certificate)}

        def _should_upgrade(self) -> bool:
            return self._get_upgrade() == UPGRADE or super()._should_upgrade()

        def handle_websocket_upgrade(self, event: h11.Request) -> None:
            if self._get_upgrade() != UPGRADE:
                super().handle_websocket_upgrade(event)
                return
            try:
                call = server.resolve_exec(cast("Scope", self.scope))
                self._check_subprotocol()
            except ApiError as exc:
                self._refuse(exc)
                return
            self._hand_over(SpdyExec(server.runtime, call, self.transport))

        def _check_subprotocol(self) -> None:
            offered = [
                name.strip()
                for header, value in self.headers if header == b"x-stream-protocol-version"
                for name in value.decode("latin-1").split(",")
            ]  # fmt: skip
            if SUBPROTOCOL not in offered:
                raise bad_request(f"unable to negotiate protocol: the client offers {offered}, not {SUBPROTOCOL}")

        def _hand_over(self, session: SpdyExec) -> None:
            self.connections.discard(self)
            self._unset_keepalive_if_required()
            head = (
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
                f"X-Stream-Protocol-Version: {SUBPROTOCOL}\r\n\r\n"
            )
            self.transport.write(head.encode())
            self.transport.set_protocol(session)
            if early := self.conn.trailing_data[0]:
                session.data_received(early)

        def _refuse(self, error: ApiError) -> None:
            response = error_response(error)
            head = (
                f"HTTP/1.1 {response.status} {error.reason}\r\nContent-Type: {response.content_type}\r\n"
                f"Content-Length: {len(response.body)}\r\nConnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + response.body)
            self.transport.close()

    return ClientConnection
