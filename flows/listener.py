# SPDX-License-Identifier: Apache-2.0
"""Where Hubble's API is listened for: a unix socket, or an address with mTLS. What all its methods share is here too."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from flows.methods import HEALTH, HEALTH_SERVICE, VERSION_HEADER
from flows.proto import health_pb2 as health
from flows.streams import FlowStream, FlowStreams

MOST_REQUEST_BYTES: Final = 1 << 20
MOST_CALLS: Final = 256
STOP_GRACE_S: Final = 0.2
PING_S: Final = 5
MOST_NAME: Final = 64

# quoted: the classes take parameters in their stubs only
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"
M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class ServerCertificates:
    """PEM texts: the authorities of clients, and what the server shows."""

    client_ca: bytes
    cert: bytes
    key: bytes


class FlowListener:
    """Listens where it is told to, until it is stopped.

    `is_stranger` says of the name in a client's certificate that the client is told nothing, whoever signed it.
    """

    def __init__(
        self, handlers: Sequence[grpc.GenericRpcHandler], is_stranger: Callable[[str], bool] = lambda _: False
    ) -> None:
        self._is_stranger = is_stranger
        options = [
            ("grpc.max_receive_message_length", MOST_REQUEST_BYTES),
            ("grpc.so_reuseport", 0),  # a port that somebody has is an error, not a share of the connections
            ("grpc.http2.min_recv_ping_interval_without_data_ms", PING_S * 1000),  # relays ask whether we are there
        ]
        self._server = grpc.aio.server(options=options, maximum_concurrent_rpcs=MOST_CALLS)
        self._server.add_generic_rpc_handlers((*handlers, _health()))

    def listen_unix(self, path: str) -> None:
        """Raises: OSError."""
        self._add(lambda: self._server.add_insecure_port(f"unix:{path}"), path)

    def listen_local(self, port: int) -> int:
        """On 127.0.0.1 without TLS, for processes of this machine. Returns the port. Raises: OSError."""
        where = f"127.0.0.1:{port}"
        return self._add(lambda: self._server.add_insecure_port(where), where)

    def listen_tls(self, address: str, fetch: Callable[[], ServerCertificates | None]) -> int:
        """With mTLS. Returns the port. `fetch` is asked at every handshake, from another thread; None: as before.

        Raises: OSError.
        """
        first = fetch()
        if first is None:
            raise OSError(f"{address}: no certificates to serve flows with")

        def configuration() -> grpc.ServerCertificateConfiguration | None:
            found = fetch()
            return None if found is None else _configuration(found)

        credentials = grpc.dynamic_ssl_server_credentials(
            _configuration(first),
            configuration,  # type: ignore[arg-type]  # None means no change, which the stubs do not say
            require_client_authentication=True,
        )
        return self._add(lambda: self._server.add_secure_port(address, credentials), address)

    def _add(self, add: Callable[[], int], where: str) -> int:
        try:
            return add()
        except RuntimeError as exc:
            raise OSError(f"flows cannot be served at {where}: {exc}") from exc

    async def read_request(self, kind: type[M], raw: bytes, context: Context) -> M:
        """The request of one who may ask, or the call has ended."""
        shown = next(iter(context.auth_context().get("x509_common_name") or ()), b"")
        name = bytes(shown).decode("utf-8", "replace")
        if name and self._is_stranger(name):
            said = f"{name[:MOST_NAME]} is a program of another cluster"
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, said)
        return await read_request(kind, raw, context)

    async def start(self) -> None:
        """Calls are answered from now on."""
        await self._server.start()

    async def stop(self) -> None:
        """Every stream ends."""
        await self._server.stop(STOP_GRACE_S)


async def read_request(kind: type[M], raw: bytes, context: Context) -> M:
    """The request, or the call has ended."""
    try:
        return kind.FromString(raw)
    except DecodeError:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the request is no {kind.DESCRIPTOR.full_name}")


@asynccontextmanager
async def admitted(
    context: Context, streams: FlowStreams, version: str, header: str = VERSION_HEADER, reader: str = ""
) -> AsyncIterator[FlowStream]:
    """A place for the call, taken before anything is awaited, and a client that knows our version; or the call has ended.

    `reader` names whose share of the places it is.
    """
    stream = streams.take(refusal(context), reader)
    if stream is None:
        said = f"{streams.most_of_one if reader else streams.most} streams are open already, end one of them"
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, said)
    try:
        await context.send_initial_metadata(((header, version),))
        yield stream
    finally:
        streams.leave(stream)


def refusal(context: Context) -> Callable[[str], Awaitable[object]]:
    """What ends a stream of which nothing is taken."""

    async def refuse(said: str) -> None:
        with suppress(grpc.aio.AbortError):  # for the handler, which is ended otherwise
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, said)

    return refuse


def unary(answer: Callable[[bytes, Context], Awaitable[bytes]]) -> Handler:
    """A method with one answer."""
    return grpc.unary_unary_rpc_method_handler(answer)


def streaming(answer: Callable[[bytes, Context], AsyncIterator[bytes]]) -> Handler:
    """A method with many."""
    return grpc.unary_stream_rpc_method_handler(answer)


def _health() -> grpc.GenericRpcHandler:
    async def check(raw: bytes, context: Context) -> bytes:
        request = await read_request(health.HealthCheckRequest, raw, context)
        if request.service not in ("", HEALTH_SERVICE):
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service; it is {HEALTH_SERVICE}")
        return health.HealthCheckResponse(status=health.HealthCheckResponse.SERVING).SerializeToString()

    return grpc.method_handlers_generic_handler(HEALTH, {"Check": unary(check)})


def _configuration(found: ServerCertificates) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(found.key, found.cert)], root_certificates=found.client_ca)
