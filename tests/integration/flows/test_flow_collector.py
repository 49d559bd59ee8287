# SPDX-License-Identifier: Apache-2.0
"""Flows at a collector of OpenTelemetry: log records by OTLP over HTTP, read with OpenTelemetry's own messages."""

from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import Iterator

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse

from agent.observe.export import FlowExport, export_request
from agent.observe.flow_collector import FlowCollector, collector_url
from agent.settings import AgentSettings
from flows.errors import RequestError
from flows.live import LiveFlows
from flows.proto import flow_pb2 as pb
from flows.ring import Lost
from meshkit.health import Health, HealthLevel
from tests.integration.flows.flow_world import entry
from tests.integration.kvstore.private_etcd import eventually
from tests.support.flow_entries import decode


class Collector(http.server.ThreadingHTTPServer):
    """Keeps what it is sent; says `status` to each request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Door)
        self.status, self.paths, self.requests = 200, set[str](), list[ExportLogsServiceRequest]()

    def records(self) -> list[tuple[str, str, dict[str, object]]]:
        """Of each: event, severity, attributes."""
        return [
            (
                record.event_name,
                record.severity_text,
                {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in record.attributes},
            )
            for request in self.requests
            for resource in request.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]


class Door(http.server.BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.paths.add(self.path)
        if self.server.status == 200:
            self.server.requests.append(ExportLogsServiceRequest.FromString(body))
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/x-protobuf")
        self.end_headers()
        self.wfile.write(ExportLogsServiceResponse().SerializeToString())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's name
        """Nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


async def test_a_collector_gets_flows_and_losses_with_what_people_search_by(collector: Collector) -> None:
    flows, health = LiveFlows(decode, 1023, "north/n1"), Health()
    asked = AgentSettings(flow_export_denylist='[{"source_pod": ["b"]}]')
    sink = FlowCollector(f"http://127.0.0.1:{collector.server_port}", "", "north", "n1")
    export = FlowExport(sink, export_request(asked), decode, health)
    task = asyncio.create_task(export.run(flows))
    await asyncio.sleep(0)
    collector.status = 400
    flows.extend([entry(1, "a")])
    await eventually(lambda: export.unsent == 1)
    assert health.snapshot()["flow export by OTLP"].level is HealthLevel.DEGRADED
    collector.status = 200
    flows.extend([entry(2, "a"), entry(3, "b"), Lost(4_000_000_000, pb.PERF_EVENT_RING_BUFFER, 7, 0)])
    await eventually(lambda: export.sent == 1)
    assert health.snapshot()["flow export by OTLP"].level is HealthLevel.OK
    task.cancel()
    await asyncio.wait([task])
    assert collector.paths == {"/v1/logs"}
    flow, lost = collector.records()
    assert flow[:2] == ("clustermesh.flow", "INFO")
    assert flow[2]["clustermesh.verdict"] == "FORWARDED"
    assert flow[2]["clustermesh.source.pod"] == "a"
    assert lost == ("clustermesh.lost_events", "WARN", {})
    (resource, *_) = (each.resource for request in collector.requests for each in request.resource_logs)
    facts = {each.key: each.value.string_value for each in resource.attributes}
    assert facts == {"service.name": "clustermesh-agent", "k8s.cluster.name": "north", "k8s.node.name": "n1"}
    first = collector.requests[0].resource_logs[0].scope_logs[0].log_records[0]
    assert first.time_unix_nano == 2_000_000_000
    assert {each.key for each in first.body.kvlist_value.values} >= {"verdict", "source"}


@pytest.mark.parametrize(
    "text", ["collector:4318", "ftp://collector", "http://", "http://me:secret@collector", "http://[::1"]
)
def test_what_is_no_collector_is_refused_at_the_start(text: str) -> None:
    with pytest.raises(RequestError, match="write http://HOST:4318"):
        collector_url(text)


def test_a_collector_has_the_path_of_otlp_unless_it_says_another() -> None:
    assert collector_url("http://c:4318") == collector_url("http://c:4318/") == "http://c:4318/v1/logs"
    assert collector_url("https://c/tenant/logs") == "https://c/tenant/logs"
