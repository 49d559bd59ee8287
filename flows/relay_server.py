# SPDX-License-Identifier: Apache-2.0
"""Hubble's API of a relay: flows of several nodes, its nodes, their sum. What it is made from is the caller's."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Protocol, TypeVar

import grpc
from google.protobuf.message import Message

from flows.errors import FilterError, RequestError
from flows.listener import Context, FlowListener, admitted, streaming, unary
from flows.methods import CLUSTERS_HEADER, OBSERVER, RELAY_VERSION_HEADER
from flows.proto import observer_pb2 as observer
from flows.streams import FlowStreams
from meshkit.errors import PermanentError, TransientError

Q = TypeVar("Q", bound=Message)


class NotGrantedError(PermanentError):
    """The caller may not have this; the text says what to do about it."""


class RelaySource(Protocol):
    """What is served. Every method may raise NotGrantedError, and TransientError where it cannot be answered now."""

    @property
    def reader(self) -> str:
        """Whose share of the streams counts; "" for those who share all of them."""

    def flows(
        self, request: observer.GetFlowsRequest, clusters: Sequence[str]
    ) -> AsyncGenerator[observer.GetFlowsResponse, None]:
        """Raises: FilterError, RequestError."""

    async def status(self) -> observer.ServerStatusResponse: ...

    async def list_nodes(self) -> observer.GetNodesResponse: ...

    async def list_namespaces(self) -> observer.GetNamespacesResponse: ...


Caller = Callable[[bytes], RelaySource]
"""What the holder of a certificate (PEM; empty without TLS) may ask. Raises: NotGrantedError."""


class RelayServer(FlowListener):
    """Who asks is looked up at each call, by the certificate that the connection was made with."""

    def __init__(
        self,
        source_of: Caller,
        version: str,
        streams: FlowStreams,
        is_stranger: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._source_of, self._version, self._streams = source_of, version, streams
        methods = {
            "GetFlows": streaming(self._get_flows),
            "GetAgentEvents": streaming(self._refuse_events),
            "GetDebugEvents": streaming(self._refuse_events),
            "GetNodes": unary(self._get_nodes),
            "GetNamespaces": unary(self._get_namespaces),
            "ServerStatus": unary(self._server_status),
        }
        super().__init__((grpc.method_handlers_generic_handler(OBSERVER, methods),), is_stranger)

    async def _get_flows(self, raw: bytes, context: Context) -> AsyncGenerator[bytes, None]:
        request = await self.read_request(observer.GetFlowsRequest, raw, context)
        source = await self._source(context)
        async with admitted(context, self._streams, self._version, RELAY_VERSION_HEADER, source.reader) as stream:
            try:
                async with aclosing(source.flows(request, _clusters(context))) as answers:
                    async for answer in answers:
                        stream.is_sending = True
                        yield answer.SerializeToString()
                        stream.sent += 1
                        stream.is_sending = False
            except (FilterError, RequestError) as exc:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(exc))
            except NotGrantedError as exc:
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(exc))
            except TransientError as exc:
                await context.abort(grpc.StatusCode.UNAVAILABLE, str(exc))

    async def _refuse_events(self, _raw: bytes, context: Context) -> AsyncGenerator[bytes, None]:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "a relay has flows only; ask the observer of a node")
        yield b""

    async def _get_nodes(self, raw: bytes, context: Context) -> bytes:
        return await self._answer(observer.GetNodesRequest, raw, context, lambda source: source.list_nodes())

    async def _get_namespaces(self, raw: bytes, context: Context) -> bytes:
        return await self._answer(observer.GetNamespacesRequest, raw, context, lambda source: source.list_namespaces())

    async def _server_status(self, raw: bytes, context: Context) -> bytes:
        return await self._answer(observer.ServerStatusRequest, raw, context, lambda source: source.status())

    async def _answer(
        self, kind: type[Q], raw: bytes, context: Context, ask: Callable[[RelaySource], Awaitable[Message]]
    ) -> bytes:
        await self.read_request(kind, raw, context)
        source = await self._source(context)
        await context.send_initial_metadata(((RELAY_VERSION_HEADER, self._version),))
        try:
            return (await ask(source)).SerializeToString()
        except NotGrantedError as exc:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(exc))
        except TransientError as exc:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(exc))

    async def _source(self, context: Context) -> RelaySource:
        shown = context.auth_context().get("x509_pem_cert") or ()
        try:
            return self._source_of(bytes(next(iter(shown), b"")))
        except NotGrantedError as exc:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(exc))


def _clusters(context: Context) -> tuple[str, ...]:
    """The clusters that a request names. None: the relay's own."""
    texts = [str(value) for key, value in context.invocation_metadata() or () if key == CLUSTERS_HEADER]
    return tuple(name for text in texts for name in text.split(",") if name)
