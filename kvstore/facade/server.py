# SPDX-License-Identifier: Apache-2.0
"""The read-only face of our etcd that peers and agents connect to instead of etcd itself.

mTLS; `KV/Range` and `Watch/Watch` only, checked against the client's grant; answers, headers and refusals are etcd's
own, so that an unmodified etcd client cannot tell the difference. Everything else is refused, because etcd's own
roles do not hold below 3.5.33: a reader can write, compact and stop the store through calls they do not cover.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from kvstore.errors import Unavailable
from kvstore.etcd import EtcdStore
from kvstore.facade.connections import ClientInfo, Connection, ConnectionInfo, Connections
from kvstore.facade.grant import ClientLimits, Grant
from kvstore.facade.hub import HubPool
from kvstore.facade.ranges import RangeContext, Ranges
from kvstore.facade.stream import StreamContext, WatchStream
from kvstore.facade.upstream import Upstream
from kvstore.methods import PACKAGE, RANGE, WATCH
from kvstore.proto import rpc_pb2 as pb
from meshkit.clock import Clock, SystemClock

log = logging.getLogger(__name__)

DENIED: Final = "etcdserver: permission denied"
CONNECT_AGAIN: Final = "etcdserver: another authority is trusted now, connect again"
EMPTY_KEY: Final = "etcdserver: key is not provided"
BUSY: Final = "etcdserver: too many requests"
STOP_GRACE_S: Final = 0.2
MAX_KNOWN_CERTIFICATES: Final = 4096
GRPC_LOGGER: Final = "grpc._cython.cygrpc"
CLIENT_LEFT: Final = "ExecuteBatchError"
SERVICES: Final = tuple(f"{PACKAGE}{name}/" for name in ("KV", "Lease", "Cluster", "Maintenance", "Auth"))
NOTHING: Final = Grant("")

Authorize = Callable[[bytes], Grant | None]
Admits = Callable[[str], bool]
# quoted: the classes take parameters in their stubs only
Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"


@dataclass(frozen=True, slots=True)
class ServerTls:
    """PEM texts of the server: every authority whose clients may knock, and what it shows them."""

    client_ca: bytes
    cert: bytes
    key: bytes = field(repr=False)


class ReadOnlyFacade:
    """Serves one etcd read-only. `authorize` maps a client's certificate to what it may read, None for nothing.

    It is asked once per certificate and again after `reload_tls`, `revoke` and `reauthorize`. `admits` says whether a name
    may read something, with another certificate perhaps.
    """

    def __init__(
        self,
        upstream: EtcdStore,
        authorize: Authorize,
        server_tls: ServerTls,
        limits: ClientLimits | None = None,
        *,
        admits: Admits = lambda _name: False,
        clock: Clock | None = None,
    ) -> None:
        self._authorize, self._admits, self._tls = authorize, admits, server_tls
        self._limits, self._clock = limits or ClientLimits(), clock or SystemClock()
        self._upstream = Upstream(upstream)
        self._upstream.on_store_change.append(self._on_store_change)
        self._connections = Connections(self._limits, self._clock)
        self._grants: dict[bytes, Grant | None] = {}
        self._hubs = HubPool(self._upstream, self._limits, self._clock)
        self._ranges = Ranges(self._upstream, self._limits, self._clock)
        self._server: grpc.aio.Server | None = None
        self._fresh_tls: grpc.ServerCertificateConfiguration | None = None
        self.refused = 0

    async def start(self, host: str, port: int) -> int:
        """It serves; returns the port, chosen by the system for 0.

        Raises: Unavailable if the address cannot be had.
        """
        logging.getLogger(GRPC_LOGGER).addFilter(_is_worth_a_line)
        server = grpc.aio.server(options=self._server_options())
        server.add_generic_rpc_handlers((_Router(self),))
        credentials = grpc.dynamic_ssl_server_credentials(
            _certificate_configuration(self._tls),
            self._fetch_tls,  # type: ignore[arg-type]  # None means no change, which the stubs do not say
            require_client_authentication=True,
        )
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = server.add_secure_port(address, credentials)
        except RuntimeError as exc:
            raise Unavailable(f"cannot listen on {address}") from exc
        await server.start()
        self._server = server
        log.info("facade started", extra={"endpoint": f"{host}:{bound}"})
        return bound

    async def stop(self) -> None:
        """Every call is ended and nothing is served."""
        server, self._server = self._server, None
        if server is not None:
            self._connections.cut(lambda _: True, grpc.StatusCode.UNAVAILABLE, "etcdserver: server stopped")
            await server.stop(STOP_GRACE_S)
        await self._hubs.close()

    def reload_tls(self, server_tls: ServerTls) -> None:
        """The next handshakes use these; open connections whose certificate is not authorized any more are cut."""
        self._tls = server_tls
        self._fresh_tls = _certificate_configuration(server_tls)
        self.reauthorize()

    def revoke(self, name: str) -> int:
        """Every open call of the grant name is ended at once; returns how many were."""
        self._grants.clear()
        count = self._connections.cut(
            lambda connection: connection.grant.name == name, grpc.StatusCode.PERMISSION_DENIED, DENIED
        )
        log.info("client revoked", extra={"peer": name, "reason": f"{count} calls ended"})
        return count

    def reauthorize(self) -> int:
        """Users or trusted authorities changed: calls whose grant is not what it was are ended; returns how many.

        Who is admitted still, but not by this certificate, is told that the store is unavailable: it connects again with the
        certificate that it has now, and goes on where it was.
        """
        self._grants.clear()
        grants = {pem: self._grant(pem) or NOTHING for pem in self._connections.certificates()}

        def is_refused(connection: Connection) -> bool:
            return grants.get(connection.certificate, connection.grant) != connection.grant

        def may_come_again(connection: Connection) -> bool:
            return grants.get(connection.certificate) == NOTHING and self._admits(connection.grant.name)

        return self._connections.cut(
            lambda connection: is_refused(connection) and may_come_again(connection),
            grpc.StatusCode.UNAVAILABLE,
            CONNECT_AGAIN,
        ) + self._connections.cut(
            lambda connection: is_refused(connection) and not may_come_again(connection),
            grpc.StatusCode.PERMISSION_DENIED,
            DENIED,
        )

    def connections(self) -> list[ConnectionInfo]:
        """Every connection with an open call."""
        return self._connections.infos()

    def clients(self) -> list[ClientInfo]:
        """Everybody who shares one set of limits, and how far they are used."""
        return self._connections.clients()

    def history_bytes(self) -> int:
        """How much the shared watches hold together, for clients that resume."""
        return self._hubs.history_bytes

    def shared_watches(self) -> int:
        """How many upstream watches serve all shared ones."""
        return len(self._hubs)

    # ---- calls

    async def serve_range(self, raw: bytes, context: RangeContext) -> bytes:
        """etcd's own answer, if the client may read all of the range."""
        connection = await self._admit(context)
        try:
            request = pb.RangeRequest.FromString(raw)
        except DecodeError:
            return await _refuse(context, grpc.StatusCode.INTERNAL, "grpc: error unmarshalling request")
        if not request.key:
            return await _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, EMPTY_KEY)
        if not connection.grant.covers(request.key, request.range_end):
            self.refused += 1
            return await _refuse(context, grpc.StatusCode.PERMISSION_DENIED, DENIED)
        if connection.ranges >= self._limits.ranges_per_connection:
            return await self._refuse_busy(context, connection, "range calls of one connection")
        try:
            return await self._ranges.serve(request, connection, context)
        except grpc.aio.AioRpcError as exc:
            return await _refuse(context, exc.code(), exc.details() or "")

    async def serve_watch(self, _requests: object, context: StreamContext) -> None:
        """One Watch call, until it ends."""
        connection = await self._admit(context)
        limits = self._limits
        if connection.streams >= limits.streams_per_connection:
            await self._refuse_busy(context, connection, "watch streams of one connection")
        if connection.client.streams >= limits.streams_per_client:
            await self._refuse_busy(context, connection, "watch streams")
        stream = WatchStream(context, connection, self._upstream, self._hubs, limits=limits, clock=self._clock)
        await stream.serve()

    async def refuse(self, _requests: object, context: StreamContext) -> None:
        """What etcd says to a reader that asks for anything else."""
        await self._admit(context)
        self.refused += 1
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, DENIED)

    # ---- parts

    async def _admit(self, context: grpc.aio.ServicerContext[Any, Any]) -> Connection:
        """The caller's connection, after the wait that its client's rate of requests asks for.

        The call is refused if the client has too many connections. That and the grant are asked again after the wait, in which
        others may have begun, and the grant may have been withdrawn; nothing may be awaited before the call begins.
        """
        connection = await self._placed(context)
        await connection.client.requests.take()
        return await self._placed(context)

    async def _placed(self, context: grpc.aio.ServicerContext[Any, Any]) -> Connection:
        connection = self._connection(context)
        if not connection.may_begin(self._limits):
            await self._refuse_busy(context, connection, "connections")
        return connection

    async def _refuse_busy(
        self, context: grpc.aio.ServicerContext[Any, Any], connection: Connection, limit: str
    ) -> bytes:
        connection.client.refuse(limit)
        return await _refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, BUSY)

    def _connection(self, context: grpc.aio.ServicerContext[Any, Any]) -> Connection:
        """The caller's connection; with no grant it is one that may read nothing, as a user without roles in etcd."""
        facts = context.auth_context()
        pem = next(iter(facts.get("x509_pem_cert", ())), b"")
        if pem not in self._grants:
            if len(self._grants) >= MAX_KNOWN_CERTIFICATES:
                self._grants.clear()
            self._grants[pem] = self._grant(pem)
        grant = self._grants[pem] or NOTHING
        return self._connections.find(grant, pem, _common_name(facts), context.peer())

    def _grant(self, pem: bytes) -> Grant | None:
        try:
            return self._authorize(pem) if pem else None
        except Exception as exc:
            log.exception("authorization failed, client refused", extra={"error": repr(exc)})
            return None

    def _on_store_change(self) -> None:
        log.warning("another store behind the facade, clients have to list again")
        self._connections.cut(lambda _: True, grpc.StatusCode.UNAVAILABLE, "etcdserver: the store was replaced")

    def _fetch_tls(self) -> grpc.ServerCertificateConfiguration | None:
        """What gRPC uses from the next handshake on, None for no change; called from a thread of its own."""
        fresh, self._fresh_tls = self._fresh_tls, None
        return fresh

    def _server_options(self) -> list[tuple[str, int]]:
        return [
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", self._limits.request_bytes),
            ("grpc.max_send_message_length", -1),
            (
                "grpc.max_concurrent_streams",
                self._limits.streams_per_connection + self._limits.ranges_per_connection,
            ),
            # etcd allows a ping every 5 s; gRPC's own default would end clients that ping every 15 s
            ("grpc.http2.min_ping_interval_without_data_ms", int(self._limits.ping_interval_s * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
            # a connection without a call costs us memory and the client nothing
            ("grpc.max_connection_idle_ms", int(self._limits.idle_connection_s * 1000)),
            ("grpc.server_handshake_timeout_ms", int(self._limits.handshake_s * 1000)),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.http2.ping_timeout_ms", 20_000),
        ]


class _Router(grpc.GenericRpcHandler):
    def __init__(self, facade: ReadOnlyFacade) -> None:
        self._range: Handler = grpc.unary_unary_rpc_method_handler(facade.serve_range)
        self._watch: Handler = grpc.stream_stream_rpc_method_handler(facade.serve_watch)
        self._refuse: Handler = grpc.stream_stream_rpc_method_handler(facade.refuse)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        method = handler_call_details.method
        if method == RANGE:
            return self._range
        if method == WATCH:
            return self._watch
        return self._refuse if method.startswith(SERVICES) else None


async def _refuse(context: grpc.aio.ServicerContext[Any, Any], code: grpc.StatusCode, text: str) -> bytes:
    await context.abort(code, text)
    raise AssertionError  # abort never returns


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """False for the traceback that gRPC logs when a client leaves before it took its answer."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or kind.__name__ != CLIENT_LEFT


def _certificate_configuration(tls: ServerTls) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(tls.key, tls.cert)], root_certificates=tls.client_ca)


def _common_name(facts: Any) -> str:
    return bytes(next(iter(facts.get("x509_common_name", ())), b"")).decode("utf-8", "replace")
