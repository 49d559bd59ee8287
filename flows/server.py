# SPDX-License-Identifier: Apache-2.0
"""The observer of one node over gRPC, which Hubble's clients ask: flows, agent events, peers, health.

Filters are evaluated here. A reader costs a place in the ring and no queue: what it does not take is overwritten and told as
lost, and one that takes nothing is cut off.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from flows.answer import answers
from flows.errors import FilterError, RequestError
from flows.live import LiveFlows
from flows.methods import HEALTH, HEALTH_SERVICE, OBSERVER, PEER, VERSION_HEADER
from flows.proto import health_pb2 as health
from flows.proto import observer_pb2 as observer
from flows.proto import peer_pb2 as peer
from flows.query import Reading
from flows.ring import FlowEntry, Item
from flows.streams import FlowStreams
from meshkit.clock import Clock
from meshkit.wake import Wake

MOST_REQUEST_BYTES: Final = 1 << 20
MOST_CALLS: Final = 256
STOP_GRACE_S: Final = 0.2

# quoted: the classes take parameters in their stubs only
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"
Render = Callable[[Item, int], Message]
Begun = tuple[LiveFlows, Reading, Render]
Begin = Callable[[bytes, Context], Awaitable[Begun]]
M = TypeVar("M", bound=Message)


class PeerFacts(NamedTuple):
    """Where a node's observer answers, and the name its certificate is for; "": it has none."""

    address: str
    server_name: str


@dataclass(frozen=True, slots=True)
class Served:
    """What is served: `peers` are the observers of this cluster by name, `peers_changed` rings when they may be others."""

    flows: LiveFlows
    agent_events: LiveFlows
    peers: Callable[[], Mapping[str, PeerFacts]]
    peers_changed: Wake
    version: str


@dataclass(frozen=True, slots=True)
class ServerCertificates:
    """PEM texts: the authorities of clients, and what the server shows."""

    client_ca: bytes
    cert: bytes
    key: bytes


class ObserverServer:
    """Listens where it is told to, until it is stopped."""

    def __init__(self, served: Served, clock: Clock, streams: FlowStreams) -> None:
        self._served, self._clock, self._streams = served, clock, streams
        self._started_s = clock.monotonic()
        options = [
            ("grpc.max_receive_message_length", MOST_REQUEST_BYTES),
            ("grpc.so_reuseport", 0),  # a port that somebody has is an error, not a share of the connections
        ]
        self._server = grpc.aio.server(options=options, maximum_concurrent_rpcs=MOST_CALLS)
        self._server.add_generic_rpc_handlers(self._handlers())

    def listen_unix(self, path: str) -> None:
        """Raises: OSError."""
        self._add(lambda: self._server.add_insecure_port(f"unix:{path}"), path)

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

    async def start(self) -> None:
        """Calls are answered from now on."""
        await self._server.start()

    async def stop(self) -> None:
        """Every stream ends."""
        await self._server.stop(STOP_GRACE_S)

    def _handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        return (
            grpc.method_handlers_generic_handler(
                OBSERVER,
                {
                    "GetFlows": _streaming(partial(self._stream, self._begin_flows)),
                    "GetAgentEvents": _streaming(partial(self._stream, self._begin_agent_events)),
                    "GetNodes": _unary(self._get_nodes),
                    "GetNamespaces": _unary(self._get_namespaces),
                    "ServerStatus": _unary(self._server_status),
                },
            ),
            grpc.method_handlers_generic_handler(PEER, {"Notify": _streaming(self._notify)}),
            grpc.method_handlers_generic_handler(HEALTH, {"Check": _unary(self._check)}),
        )

    # ---- streams

    async def _stream(self, begin: Begin, raw: bytes, context: Context) -> AsyncIterator[bytes]:
        """One generator for every kind of stream: each further one would be asked for every answer."""
        flows, reading, render = await begin(raw, context)
        await self._admit(context)
        with self._streams.entered(_refusal(context)) as stream:
            async for found in flows.steps(reading):
                stream.is_sending = True
                for item, number in found:
                    yield render(item, number).SerializeToString()
                    stream.sent += 1
                stream.is_sending = False
                await asyncio.sleep(0)

    async def _begin_flows(self, raw: bytes, context: Context) -> Begun:
        flows, request = self._served.flows, await _read(observer.GetFlowsRequest, raw, context)
        try:
            return flows, flows.read(request), answers(flows.ring.decode, flows.node_name, request.field_mask)
        except (FilterError, RequestError) as exc:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(exc))

    async def _begin_agent_events(self, raw: bytes, context: Context) -> Begun:
        events, request = self._served.agent_events, await _read(observer.GetAgentEventsRequest, raw, context)
        wanted = observer.GetFlowsRequest(number=request.number, first=request.first, follow=request.follow)
        if request.HasField("since"):
            wanted.since.CopyFrom(request.since)
        if request.HasField("until"):
            wanted.until.CopyFrom(request.until)

        def render(item: Item, _number: int) -> Message:
            found = observer.GetAgentEventsResponse(node_name=events.node_name)
            found.time.FromNanoseconds(item.time_ns)
            if isinstance(item, FlowEntry):
                found.agent_event.MergeFromString(item.raw)
            return found

        try:
            return events, events.read(wanted), render
        except RequestError as exc:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(exc))

    async def _notify(self, raw: bytes, context: Context) -> AsyncIterator[bytes]:
        """All peers, then every change."""
        await _read(peer.NotifyRequest, raw, context)
        await self._admit(context)
        changed, told = self._served.peers_changed, dict[str, PeerFacts]()
        with self._streams.entered(_refusal(context)) as stream:
            while True:
                rung, now = changed.count, self._served.peers()
                stream.is_sending = True
                for change in _changes(told, now):
                    yield change.SerializeToString()
                    stream.sent += 1
                stream.is_sending = False
                told = dict(now)
                await changed.wait(rung)

    async def _admit(self, context: Context) -> None:
        if self._streams.is_full():
            said = f"{self._streams.most} streams are open already, end one of them"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, said)
        await context.send_initial_metadata(((VERSION_HEADER, self._served.version),))

    # ---- single answers

    async def _server_status(self, raw: bytes, context: Context) -> bytes:
        await _read(observer.ServerStatusRequest, raw, context)
        ring = self._served.flows.ring
        return observer.ServerStatusResponse(
            num_flows=len(ring),
            max_flows=ring.capacity,
            seen_flows=ring.end,
            uptime_ns=int((self._clock.monotonic() - self._started_s) * 1e9),
            version=self._served.version,
            flows_rate=self._served.flows.rate,
        ).SerializeToString()

    async def _get_namespaces(self, raw: bytes, context: Context) -> bytes:
        await _read(observer.GetNamespacesRequest, raw, context)
        found = self._served.flows.namespaces(self._clock.monotonic())
        rows = [observer.Namespace(cluster=cluster, namespace=namespace) for cluster, namespace in found]
        return observer.GetNamespacesResponse(namespaces=rows).SerializeToString()

    async def _get_nodes(self, _raw: bytes, context: Context) -> bytes:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "an observer knows its own node only; ask a relay")

    async def _check(self, raw: bytes, context: Context) -> bytes:
        request = await _read(health.HealthCheckRequest, raw, context)
        if request.service not in ("", HEALTH_SERVICE):
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service; it is {HEALTH_SERVICE}")
        return health.HealthCheckResponse(status=health.HealthCheckResponse.SERVING).SerializeToString()


def _changes(told: Mapping[str, PeerFacts], now: Mapping[str, PeerFacts]) -> list[peer.ChangeNotification]:
    found: list[peer.ChangeNotification] = []
    for name in sorted(told.keys() | now.keys()):
        before, after = told.get(name), now.get(name)
        if before == after:
            continue
        kind = peer.PEER_ADDED if before is None else peer.PEER_DELETED if after is None else peer.PEER_UPDATED
        facts = after or before
        assert facts is not None
        change = peer.ChangeNotification(name=name, address=facts.address, type=kind)
        if facts.server_name:
            change.tls.server_name = facts.server_name
        found.append(change)
    return found


async def _read(kind: type[M], raw: bytes, context: Context) -> M:
    try:
        return kind.FromString(raw)
    except DecodeError:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the request is no {kind.DESCRIPTOR.full_name}")


def _refusal(context: Context) -> Callable[[str], Awaitable[object]]:
    async def refuse(said: str) -> None:
        with suppress(grpc.aio.AbortError):  # for the handler, which is ended otherwise
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, said)

    return refuse


def _unary(answer: Callable[[bytes, Context], Awaitable[bytes]]) -> Handler:
    return grpc.unary_unary_rpc_method_handler(answer)


def _streaming(answer: Callable[[bytes, Context], AsyncIterator[bytes]]) -> Handler:
    return grpc.unary_stream_rpc_method_handler(answer)


def _configuration(found: ServerCertificates) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(found.key, found.cert)], root_certificates=found.client_ca)
