# SPDX-License-Identifier: Apache-2.0
"""The observer of one node over gRPC, which Hubble's clients ask: flows, agent events, peers, health.

Filters are evaluated here. A reader costs a place in the ring and no queue: what it does not take is overwritten and told as
lost, and one that takes nothing is cut off.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial

import grpc
from google.protobuf.message import Message

from flows.answer import answers, coverage
from flows.errors import FilterError, RequestError
from flows.listener import Context, FlowListener, admitted, streaming, unary
from flows.live import LiveFlows
from flows.methods import OBSERVER, PEER, PeerFacts
from flows.proto import observer_pb2 as observer
from flows.proto import peer_pb2 as peer
from flows.query import Reading
from flows.ring import FlowEntry, Item
from flows.streams import FlowStreams
from meshkit.clock import Clock
from meshkit.wake import Wake

Render = Callable[[Item, int], Message]
Begun = tuple[LiveFlows, Reading, Render]
Begin = Callable[[bytes, Context], Awaitable[Begun]]


@dataclass(frozen=True, slots=True)
class Served:
    """What is served: `peers` are the observers of this cluster by name, `peers_changed` rings when they may be others."""

    flows: LiveFlows
    agent_events: LiveFlows
    peers: Callable[[], Mapping[str, PeerFacts]]
    peers_changed: Wake
    version: str


class ObserverServer(FlowListener):
    """Hubble's API of one node."""

    def __init__(
        self,
        served: Served,
        clock: Clock,
        streams: FlowStreams,
        is_stranger: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._served, self._clock, self._streams = served, clock, streams
        self._started_s = clock.monotonic()
        super().__init__(self._handlers(), is_stranger)

    def _handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        return (
            grpc.method_handlers_generic_handler(
                OBSERVER,
                {
                    "GetFlows": streaming(partial(self._stream, self._begin_flows)),
                    "GetAgentEvents": streaming(partial(self._stream, self._begin_agent_events)),
                    "GetNodes": unary(self._get_nodes),
                    "GetNamespaces": unary(self._get_namespaces),
                    "ServerStatus": unary(self._server_status),
                },
            ),
            grpc.method_handlers_generic_handler(PEER, {"Notify": streaming(self._notify)}),
        )

    # ---- streams

    async def _stream(self, begin: Begin, raw: bytes, context: Context) -> AsyncIterator[bytes]:
        """One generator for every kind of stream: each further one would be asked for every answer."""
        flows, reading, render = await begin(raw, context)
        async with admitted(context, self._streams, self._served.version) as stream:
            async for found in flows.steps(reading):
                stream.is_sending = True
                for item, number in found:
                    yield render(item, number).SerializeToString()
                    stream.sent += 1
                stream.is_sending = False
                await asyncio.sleep(0)
            last = (
                coverage(reading.shortfall(), flows.node_name, int(self._clock.wall() * 1e9))
                if begin == self._begin_flows
                else None
            )
            if last is not None:
                yield last.SerializeToString()

    async def _begin_flows(self, raw: bytes, context: Context) -> Begun:
        flows, request = self._served.flows, await self.read_request(observer.GetFlowsRequest, raw, context)
        try:
            return flows, flows.read(request), answers(flows.ring.decode, flows.node_name, request.field_mask)
        except (FilterError, RequestError) as exc:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(exc))

    async def _begin_agent_events(self, raw: bytes, context: Context) -> Begun:
        events, request = (
            self._served.agent_events,
            await self.read_request(observer.GetAgentEventsRequest, raw, context),
        )
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
        await self.read_request(peer.NotifyRequest, raw, context)
        changed, told = self._served.peers_changed, dict[str, PeerFacts]()
        async with admitted(context, self._streams, self._served.version) as stream:
            while True:
                rung, now = changed.count, self._served.peers()
                stream.is_sending = True
                for change in _changes(told, now):
                    yield change.SerializeToString()
                    stream.sent += 1
                stream.is_sending = False
                told = dict(now)
                await changed.wait(rung)

    # ---- single answers

    async def _server_status(self, raw: bytes, context: Context) -> bytes:
        await self.read_request(observer.ServerStatusRequest, raw, context)
        uptime_s = self._clock.monotonic() - self._started_s
        return self._served.flows.status(uptime_s, self._served.version).SerializeToString()

    async def _get_namespaces(self, raw: bytes, context: Context) -> bytes:
        await self.read_request(observer.GetNamespacesRequest, raw, context)
        found = self._served.flows.namespaces(self._clock.monotonic())
        rows = [observer.Namespace(cluster=cluster, namespace=namespace) for cluster, namespace in found]
        return observer.GetNamespacesResponse(namespaces=rows).SerializeToString()

    async def _get_nodes(self, _raw: bytes, context: Context) -> bytes:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "an observer knows its own node only; ask a relay")


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
