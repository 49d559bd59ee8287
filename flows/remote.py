# SPDX-License-Identifier: Apache-2.0
"""An observer of another machine, asked over mTLS on an event loop: a node's, or a relay of another cluster."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from flows.methods import OBSERVER, PeerFacts
from flows.proto import observer_pb2 as observer
from meshkit.errors import MAXIMUM_TEXT, TransientError
from meshkit.patience import within

ANSWER_S: Final = 3.0
MOST_ANSWER_BYTES: Final = 1 << 22
CLOSE_S: Final = 1.0
Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)
Metadata = Sequence[tuple[str, str]]


class UnansweredError(TransientError):
    """An observer refused, or did not answer; the text says why, without its name."""


@dataclass(frozen=True, slots=True)
class ClientCertificates:
    """PEM texts: the authorities of the server, and what the client shows."""

    ca: bytes
    cert: bytes
    key: bytes


class RemoteObserver:
    """One of them. `fetch` is asked before each call, so that new certificates are used as soon as they are there."""

    def __init__(self, facts: PeerFacts, fetch: Callable[[], ClientCertificates | None]) -> None:
        self.facts, self._fetch = facts, fetch
        self._shown: ClientCertificates | None = None
        self._channel: grpc.aio.Channel | None = None
        self._former: list[grpc.aio.Channel] = []

    async def status(self) -> observer.ServerStatusResponse:
        """Raises: UnansweredError."""
        return await self._ask("ServerStatus", observer.ServerStatusRequest(), observer.ServerStatusResponse)

    async def namespaces(self) -> observer.GetNamespacesResponse:
        """Raises: UnansweredError."""
        return await self._ask("GetNamespaces", observer.GetNamespacesRequest(), observer.GetNamespacesResponse)

    async def flows(
        self, request: observer.GetFlowsRequest, metadata: Metadata = ()
    ) -> AsyncGenerator[observer.GetFlowsResponse, None]:
        """Answers as they come. Raises: UnansweredError."""
        call = self._dial().unary_stream(
            f"/{OBSERVER}/GetFlows",
            request_serializer=observer.GetFlowsRequest.SerializeToString,
            response_deserializer=observer.GetFlowsResponse.FromString,
        )(request, metadata=tuple(metadata))
        try:
            async for answer in call:
                yield answer
        except grpc.aio.AioRpcError as exc:
            raise _translated(exc) from exc
        finally:
            call.cancel()

    async def close(self) -> None:
        """No more calls."""
        channels = [*self._former, *([self._channel] if self._channel else [])]
        self._former, self._channel = [], None
        for channel in channels:
            with suppress(TimeoutError):
                await within(CLOSE_S, channel.close())

    async def _ask(self, method: str, request: Q, answer: type[A]) -> A:
        call = self._dial().unary_unary(
            f"/{OBSERVER}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        try:
            found: A = await call(request, timeout=ANSWER_S)
        except grpc.aio.AioRpcError as exc:
            raise _translated(exc) from exc
        return found

    def _dial(self) -> grpc.aio.Channel:
        """The channel with the certificates of now; streams of a former one go on. Raises: UnansweredError."""
        found = self._fetch()
        if found is None:
            raise UnansweredError("there are no certificates to ask it with: run clustermesh enable")
        if self._channel is None or found != self._shown:
            if self._channel is not None:
                self._former.append(self._channel)
            credentials = grpc.ssl_channel_credentials(found.ca, found.key, found.cert)
            options: list[tuple[str, str | int]] = [
                ("grpc.enable_http_proxy", 0),
                ("grpc.max_receive_message_length", MOST_ANSWER_BYTES),
                ("grpc.min_reconnect_backoff_ms", int(ANSWER_S * 1000)),
                ("grpc.max_reconnect_backoff_ms", int(ANSWER_S * 1000)),
                # a node that is gone ends its streams, though it says nothing
                ("grpc.keepalive_time_ms", 10_000),
                ("grpc.keepalive_timeout_ms", 5_000),
                ("grpc.http2.max_pings_without_data", 0),
            ]
            if self.facts.server_name:
                options.append(("grpc.ssl_target_name_override", self.facts.server_name))
            self._channel = grpc.aio.secure_channel(self.facts.address, credentials, options=options)
            self._shown = found
        return self._channel


def _translated(exc: grpc.aio.AioRpcError) -> UnansweredError:
    if exc.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return UnansweredError(f"does not answer within {ANSWER_S:g} s")
    return UnansweredError(f"{exc.code().name}: {exc.details() or ''}"[:MAXIMUM_TEXT])
