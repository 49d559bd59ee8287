# SPDX-License-Identifier: Apache-2.0
"""An observer on a unix socket, with flows of the test's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc.aio

from agent.observe.serving import bind_private
from flows.live import LiveFlows
from flows.methods import PeerFacts
from flows.proto import flow_pb2 as pb
from flows.proto import observer_pb2 as observer
from flows.ring import FlowEntry, decode_nothing
from flows.server import ObserverServer, Served
from flows.streams import FlowStreams
from flows.words import TRACE
from meshkit.clock import SystemClock
from meshkit.wake import Wake
from tests.support.flow_entries import S, decode


def entry(second: int, pod: str = "a", size: int = 0) -> FlowEntry:
    flow = pb.Flow(verdict=pb.FORWARDED, Summary="x" * size)
    flow.event_type.type, flow.event_type.sub_type = TRACE, 3
    flow.IP.source, flow.IP.destination = "10.0.0.1", "10.0.0.2"
    flow.source.pod_name = pod
    return FlowEntry(second * S, pod, "head", flow.SerializeToString())


class FlowWorld:
    """A server on a unix socket, and one channel to it."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.path = SystemClock(), folder / "flows.sock"
        self.flows = LiveFlows(decode, 1023, "north/n1")
        self.events = LiveFlows(decode_nothing, 7, "north/n1")
        self.peers: dict[str, PeerFacts] = {"north/n1": PeerFacts("10.0.0.1:4244", "n1.north.hubble-grpc.cilium.io")}
        self.changed = Wake()
        self.streams = FlowStreams(most=3, stalled_s=5.0)
        served = Served(self.flows, self.events, lambda: self.peers, self.changed, "1.2.3")
        self.server = ObserverServer(served, self.clock, self.streams)
        bind_private(self.server, self.path)
        self.channel = grpc.aio.insecure_channel(f"unix://{self.path}")

    async def ask(self, method: str, request: Any, answer: Any) -> Any:
        call = self.channel.unary_unary(
            method, request_serializer=lambda m: m.SerializeToString(), response_deserializer=answer.FromString
        )
        return await call(request, timeout=5)

    def stream(self, method: str, request: Any, answer: Any) -> Any:
        call = self.channel.unary_stream(
            method, request_serializer=lambda m: m.SerializeToString(), response_deserializer=answer.FromString
        )
        return call(request)

    def flows_of(self, **fields: Any) -> Any:
        return self.stream("/observer.Observer/GetFlows", observer.GetFlowsRequest(**fields), observer.GetFlowsResponse)
