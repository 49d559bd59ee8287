# SPDX-License-Identifier: Apache-2.0
"""Flows as log records of OpenTelemetry, sent to a collector by OTLP over HTTP.

A record's body is the flow with the names of Hubble's messages; its attributes are those by which people search. Lost events are
records of their own. Attributes of addresses follow OpenTelemetry's semantic conventions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import urlsplit

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from flows.document import set_members_of
from flows.errors import RequestError
from flows.proto import flow_pb2 as pb
from flows.proto import observer_pb2 as observer
from meshapi.installed import AGENT

LOGS_PATH: Final = "/v1/logs"
TIMEOUT_S: Final = 10.0
FLOW: Final = "clustermesh.flow"
LOST: Final = "clustermesh.lost_events"
_SCOPE: Final = InstrumentationScope("clustermesh.flows")


def collector_url(text: str) -> str:
    """Where log records are sent: the URL, with OTLP's path where it has none. Raises: RequestError."""
    try:
        url = urlsplit(text)
        host, _port = url.hostname, url.port
    except ValueError as exc:
        raise RequestError(f"--flow-export-otlp: {text!r}: {exc}: write http://HOST:4318") from exc
    if url.scheme not in ("http", "https") or not host or url.username is not None:
        raise RequestError(f"--flow-export-otlp: {text!r} is no collector: write http://HOST:4318 or https://HOST:4318")
    return url._replace(path=LOGS_PATH).geturl() if url.path in ("", "/") else text


class FlowCollector:
    """What `--flow-export-otlp` names. `authority_file` certifies an https collector; the system's authorities where empty.

    Raises: RequestError for what is no collector.
    """

    def __init__(self, url: str, authority_file: str, cluster: str, node: str) -> None:
        self.name, self.place = "flow export by OTLP", collector_url(url)
        self._exporter = OTLPLogExporter(self.place, certificate_file=authority_file or None, timeout=TIMEOUT_S)
        facts = {"service.name": AGENT, "k8s.cluster.name": cluster, "k8s.node.name": node}
        self._resource = Resource(facts)

    def send(self, found: Sequence[observer.GetFlowsResponse]) -> None:
        """The collector has taken them; it is asked again for some seconds where it is busy. Raises: OSError."""
        records = [
            ReadableLogRecord(record, self._resource, _SCOPE)
            for each in found
            if (record := record_of(each)) is not None
        ]
        if records and self._exporter.export(records) is not LogRecordExportResult.SUCCESS:
            raise OSError("the collector did not take them, the log says why")

    def close(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]


def record_of(found: observer.GetFlowsResponse) -> LogRecord | None:
    """The log record of an answer; None for what tells of the node alone."""
    if found.HasField("flow"):
        flow = found.flow
        is_lost = flow.verdict in (pb.DROPPED, pb.ERROR)
        return LogRecord(
            timestamp=found.time.ToNanoseconds(),
            observed_timestamp=found.time.ToNanoseconds(),
            severity_number=SeverityNumber.WARN if is_lost else SeverityNumber.INFO,
            severity_text="WARN" if is_lost else "INFO",
            body=set_members_of(flow),
            attributes=dict(_attributes(flow)),
            event_name=FLOW,
        )
    if found.HasField("lost_events"):
        return LogRecord(
            timestamp=found.time.ToNanoseconds(),
            observed_timestamp=found.time.ToNanoseconds(),
            severity_number=SeverityNumber.WARN,
            severity_text="WARN",
            body=set_members_of(found.lost_events),
            event_name=LOST,
        )
    return None


def _attributes(flow: pb.Flow) -> Iterator[tuple[str, str | int]]:
    """Those that the flow has: fields that the mask left out are not there."""
    if flow.verdict:
        yield "clustermesh.verdict", pb.Verdict.Name(flow.verdict)
    if flow.drop_reason_desc:
        yield "clustermesh.drop_reason", pb.DropReason.Name(flow.drop_reason_desc)
    if flow.traffic_direction:
        yield "clustermesh.direction", pb.TrafficDirection.Name(flow.traffic_direction)
    if flow.IP.source:
        yield "source.address", flow.IP.source
    if flow.IP.destination:
        yield "destination.address", flow.IP.destination
    if (protocol := flow.l4.WhichOneof("protocol")) is not None:
        yield "network.transport", protocol.lower()
        ports = getattr(flow.l4, protocol)
        if isinstance(ports, pb.TCP | pb.UDP | pb.SCTP):
            yield "source.port", ports.source_port
            yield "destination.port", ports.destination_port
    for side, end in (("source", flow.source), ("destination", flow.destination)):
        for name, value in (("cluster", end.cluster_name), ("namespace", end.namespace), ("pod", end.pod_name)):
            if value:
                yield f"clustermesh.{side}.{name}", value
