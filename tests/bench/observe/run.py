# SPDX-License-Identifier: Apache-2.0
"""A ring of 65,535 flows of 200 pods: filled from records of the kernel, searched, and streamed to one reader.

CPU seconds of this process come first, as load of the machine does not add to them; the reader is a process of its own.
`observe_ratio` measures what records cost packets.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from agent.datapath.flow_layout import DatapathEvent, EventType, PolicyMatch, TracePoint, TraceReason
from agent.datapath.layout import Direction
from agent.datapath.reasons import Reason
from agent.observe.flow import FlowMaker
from agent.observe.serving import bind_private
from agent.observe.sides import Directory
from agent.tables import AgentDB, ClaimOrigin, Identity, Prefix
from flows.answer import answers
from flows.live import LiveFlows
from flows.methods import OBSERVER
from flows.proto import flow_pb2 as pb
from flows.proto import observer_pb2 as observer
from flows.ring import FlowEntry, decode_nothing
from flows.server import ObserverServer, Served
from flows.streams import FlowStreams
from meshkit.clock import SystemClock
from meshkit.wake import Wake
from meshmodel.labels import Label
from meshmodel.names import ClusterId, ClusterName
from tests.bench.datapath import observe_ratio
from tests.bench.wire.meter import memory_mib

CAPACITY: Final = 65_535
PODS: Final = 200
RUNS: Final = 3
READER: Final = """
import sys, time
from flows.client import FlowClient, ServerAccess
from flows.proto import observer_pb2 as observer
client = FlowClient(ServerAccess(server=sys.argv[1]))
list(client.get_flows(observer.GetFlowsRequest(number=1)))
began, number = time.perf_counter(), 0
for _ in client.get_flows(observer.GetFlowsRequest(number=(1 << 64) - 1)):
    number += 1
print(number, time.perf_counter() - began)
"""


def run() -> dict[str, Any]:
    """Figures beside their targets."""
    records = make_records()
    maker = FlowMaker(Directory(make_db(), lambda _number: None), lambda ns: ns, "north/n1", "00112233-4455-4677-8899-")
    before = memory_mib(os.getpid())
    flows = LiveFlows(maker.decode, CAPACITY, "north/n1")
    fill_s = cpu_s(lambda: flows.extend(maker.make([bytes(bytearray(raw)) for raw in records])), runs=1)
    ring_mib = memory_mib(os.getpid()) - before
    return {
        "ring_flows": len(flows.ring),
        "ring_mib": round(ring_mib, 1),
        "ring_target_mib": 40,
        "taken_records_per_cpu_s": round(len(records) / fill_s),
        "taken_target_per_cpu_s": 50_000,
        **searches(flows),
        "decoded_flows_per_cpu_s": round(10_000 / cpu_s(lambda: decode(flows, 10_000))),
        **asyncio.run(streamed(flows)),
        "packets": observe_ratio.measure(),
    }


def searches(flows: LiveFlows) -> dict[str, float]:
    """Of the last 20 by pod and verdict: of many that pass, of few, and of none, when all of the ring is looked at."""
    wanted = {"common": "default/pod-1", "rare": "default/rare", "absent": "default/nobody"}
    found = {name: cpu_s(lambda pod=pod: search(flows, pod)) * 1000 for name, pod in wanted.items()}  # type: ignore[misc]
    return {**{f"last_20_{name}_cpu_ms": round(ms, 1) for name, ms in found.items()}, "last_20_target_ms": 30}


def search(flows: LiveFlows, pod: str) -> int:
    filters = [
        pb.FlowFilter(source_pod=[pod], verdict=[pb.DROPPED]),
        pb.FlowFilter(destination_pod=[pod], verdict=[pb.DROPPED]),
    ]
    reading, number = flows.read(observer.GetFlowsRequest(number=20, whitelist=filters)), 0
    while not reading.is_done:
        number += len(reading.step())
    return number


def decode(flows: LiveFlows, number: int) -> None:
    ring = flows.ring
    for place, item in enumerate(ring.slice(ring.end - number, ring.end), ring.end - number):
        assert isinstance(item, FlowEntry)
        ring.decode(item, place)


async def streamed(flows: LiveFlows) -> dict[str, float]:
    """All flows to one reader on the unix socket, and as many equal answers by gRPC alone."""
    events = LiveFlows(decode_nothing, 1, "north/n1")
    served = Served(flows, events, dict, Wake(), "bench")
    ours = ObserverServer(served, SystemClock(), FlowStreams())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flows.sock"
        bind_private(ours, path)
        await ours.start()
        per_cpu, per_s = await read_all(path)
        await ours.stop()
        bare = bare_server(flows, path.with_name("bare.sock"))
        await bare.start()
        bare_per_cpu, bare_per_s = await read_all(path.with_name("bare.sock"))
        await bare.stop(None)
    return {
        "streamed_flows_per_server_cpu_s": round(per_cpu),
        "streamed_flows_per_s": round(per_s),
        "streamed_target_per_s": 25_000,
        "bare_grpc_answers_per_server_cpu_s": round(bare_per_cpu),
        "bare_grpc_answers_per_s": round(bare_per_s),
        "streamed_over_bare_grpc": round(per_cpu / bare_per_cpu, 2),
    }


async def read_all(path: Path) -> tuple[float, float]:
    """Answers for each CPU second of this process, and for each second: the best of some runs, each with a new reader."""
    found: list[tuple[float, float]] = []
    for _ in range(RUNS):
        began = time.process_time()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", READER, f"unix://{path}", stdout=subprocess.PIPE
        )
        out, _ = await process.communicate()
        number, wall_s = map(float, out.split())
        found.append((number / (time.process_time() - began), number / wall_s))
    return max(per_cpu for per_cpu, _ in found), max(per_s for _, per_s in found)


def bare_server(flows: LiveFlows, path: Path) -> grpc.aio.Server:
    """Answers every request with one flow, as often as the ring has flows."""
    (item,) = flows.ring.slice(flows.ring.begin, flows.ring.begin + 1)
    answer = answers(flows.ring.decode, flows.node_name, observer.GetFlowsRequest().field_mask)(item, 0)
    payload = answer.SerializeToString()

    async def get_flows(raw: bytes, _context: object) -> AsyncIterator[bytes]:
        for _ in range(1 if observer.GetFlowsRequest.FromString(raw).number == 1 else len(flows.ring)):
            yield payload

    server = grpc.aio.server()
    handlers = {"GetFlows": grpc.unary_stream_rpc_method_handler(get_flows)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(OBSERVER, handlers),))
    server.add_insecure_port(f"unix:{path}")
    return server


def cpu_s(work: Callable[[], object], runs: int = RUNS) -> float:
    """The least CPU time of some runs."""
    found: list[float] = []
    for _ in range(runs):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return min(found)


def make_db() -> AgentDB:
    """Pods of two clusters, ten labels each; the last of them is seldom heard of."""
    db = AgentDB(ClusterName("north"), ClusterId(1), "n1", "172.18.0.2")
    with db.write():
        for number in range(PODS):
            cluster = ("north", "south")[number % 2]
            labels = [Label("k8s", f"label-{n}", f"value-{number % 7}-{n}") for n in range(9)]
            labels.append(Label("k8s", "io.cilium.k8s.policy.cluster", cluster))
            identity = (1 + number % 2) << 16 | number + 1
            db.identities.put(Identity(identity, ClusterName(cluster), tuple(labels)))
            name = "rare" if number == PODS - 1 else f"pod-{number}"
            db.prefixes.put(
                Prefix(f"10.{number % 2}.0.{number}/32", identity, "", ClusterName(cluster), ClusterId(1 + number % 2),
                       ClaimOrigin.POD, "", "default", name)
            )  # fmt: skip
    return db


def make_records() -> list[bytes]:
    """Connections of pods: one in ten is dropped, the others have a verdict, a trace of the first packet and of the answer."""
    kinds: tuple[dict[str, int], ...] = (
        {"type": EventType.POLICY_VERDICT, "reason": 0, "match": PolicyMatch.L3_L4},
        {"type": EventType.TRACE, "reason": TraceReason.NEW, "point": TracePoint.TO_OVERLAY},
        {"type": EventType.TRACE, "reason": TraceReason.REPLY, "tcp_flags": 18},
        {"type": EventType.DROP, "reason": Reason.POLICY_DENIED},
    )
    return [_record(number, kinds[3 if number % 10 == 0 else number % 3]) for number in range(CAPACITY)]


def _record(number: int, kind: dict[str, int]) -> bytes:
    source, target = number % (PODS - 1), (number * 7 + 1) % (PODS - 1)
    if number == 20_000:
        source = PODS - 1
    fields: dict[str, Any] = {
        "timestamp_ns": 1_800_000_000_000_000_000 + number * 50_000, "direction": Direction.EGRESS, "protocol": 6,
        "tcp_flags": 2, "endpoint_id": 3, "length": 60, "rule_id": 0, "ifindex": 4,
        "source_identity": (1 + source % 2) << 16 | source + 1, "destination_identity": (1 + target % 2) << 16 | target + 1,
        "source": f"10.{source % 2}.0.{source}", "destination": f"10.{target % 2}.0.{target}",
        "source_port": 1024 + number % 60_000, "destination_port": 80,
    }  # fmt: skip
    return DatapathEvent(**{**fields, **kind}).pack()
