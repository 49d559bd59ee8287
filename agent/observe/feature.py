# SPDX-License-Identifier: Apache-2.0
"""Flow records as a feature: events of the kernel become flows in a ring, and its counters tell of a flood."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from prometheus_client.metrics_core import Metric

from agent.core import Core
from agent.datapath.flow_layout import MetricKey
from agent.datapath.layout import Direction
from agent.datapath.reasons import Reason
from agent.feature import Feature, Tasks
from agent.metric import gauge
from agent.observe.agent_events import AgentEvents
from agent.observe.export import FlowExport, FlowSink, export_request
from agent.observe.flood import HalfOpen
from agent.observe.flow import FlowMaker, namespaces_of
from agent.observe.flow_file import FlowFile
from agent.observe.flow_metrics import add_flow_metrics
from agent.observe.questions import QuestionFlows
from agent.observe.requests import RequestFlows, with_requests
from agent.observe.routes import add_flow_routes
from agent.observe.server_names import ServerNameFlows
from agent.observe.serving import peers_of, serve_flows
from agent.observe.sides import Directory, KnownNames, Rules, Sides
from agent.observe.staged import StagedJudge, StagedVerdicts
from agent.observe.status_routes import add_status_routes
from agent.settings import AgentSettings
from flows.live import LiveFlows
from flows.measure import parse_measures
from flows.meter import FlowMeter
from flows.proto import flow_pb2 as pb
from flows.ring import FlowEntry, Lost, decode_nothing
from flows.ring_capacity import DEFAULT_CAPACITY
from flows.server import Served
from flows.streams import FlowStreams
from flows.words import qualified_name, uuid_prefix
from meshkit.health import Health
from meshkit.rest import Rest
from meshkit.version import program_version

AGENT_EVENTS_S: Final = 0.5
_OPENED: Final = tuple(MetricKey(Reason.FLOW_OPENED, direction) for direction in Direction)
_ESTABLISHED: Final = tuple(MetricKey(Reason.FLOW_ESTABLISHED, direction) for direction in Direction)


class ObserveFeature(Feature):
    """`rule_origin` tells which policy rule a map value names, `staged` what staged policies would decide.

    `names` are those that flows show of addresses outside.
    """

    name = "observe"

    def __init__(
        self, core: Core, rule_origin: Rules, staged: StagedJudge | None = None, names: KnownNames | None = None
    ) -> None:
        self._core = core
        self._half_open = HalfOpen(core.maps.conntrack_opening.info().max_entries)
        node_name = qualified_name(core.db.own, core.db.node_name)
        directory = Directory(core.db, rule_origin, names)
        uuid = uuid_prefix(os.urandom(10))
        self._maker = FlowMaker(directory, core.host.wall_ns, node_name, uuid, StagedVerdicts(core.db, staged).of)
        self._requests, self._questions = RequestFlows(directory), QuestionFlows(directory)
        self._connections = ServerNameFlows(directory)
        self._unreadable_requests = 0
        self.flows = LiveFlows(
            with_requests(self._maker.decode, self._maker.finish), core.settings.flow_ring, node_name
        )
        self._meter = FlowMeter(parse_measures(core.settings.flow_metrics), self.flows.ring.decode)
        request = export_request(core.settings)
        self._exports = [
            FlowExport(sink, request, self.flows.ring.decode, core.health)
            for sink in _sinks(core.settings, core.db.own, core.db.node_name)
        ]
        self._lost = core.host.lost()
        self._told = LiveFlows(decode_nothing, DEFAULT_CAPACITY, node_name)
        self._agent_events = AgentEvents(core.db, DEFAULT_CAPACITY)
        self.streams = FlowStreams()

    def check_health(self, health: Health) -> None:
        self.flows.note_rate(self._core.clock.monotonic())
        self._note_lost()
        self._half_open.note(self._core.clock.monotonic(), self._count(_OPENED), self._count(_ESTABLISHED))
        if flood := self._half_open.describe():
            health.degraded("map conntrack_opening", flood)
        else:
            health.ok("map conntrack_opening")

    def _count(self, keys: Iterable[MetricKey]) -> int:
        values = map(self._core.maps.metrics.get, keys)
        return sum([value.packets for value in values if value is not None])

    def _note_lost(self) -> None:
        """Events that the kernel had no room for are told once a second for each CPU, where they are missing."""
        lost, now_ns = self._core.host.lost(), int(self._core.clock.wall() * 1e9)
        for cpu, (now, before) in enumerate(zip(lost, self._lost, strict=True)):
            if now > before:
                self.flows.extend([Lost(now_ns, pb.PERF_EVENT_RING_BUFFER, now - before, cpu)])
        self._lost = lost

    def tasks(self) -> Tasks:
        return {
            "flows": self._follow_events(),
            "agent events": self._tell_agent_events(),
            **{each.sink.name: each.run(self.flows) for each in self._exports},
        }

    def servers(self) -> Tasks:
        db, port = self._core.db, self._core.settings.flow_port
        served = Served(self.flows, self._told, lambda: peers_of(db, port), db.nodes.changed, program_version())
        return {"flow server": serve_flows(self._core, served, self.streams)}

    def add_routes(self, rest: Rest) -> None:
        add_flow_routes(rest, self.flows, self._core.db, lambda: sum(self._core.host.lost()), self._core.clock.wall)
        add_status_routes(rest, self.flows, self._core.clock)
        add_flow_metrics(rest, self._meter, lambda: sum(self._core.host.lost()))

    def metrics(self) -> Iterable[Metric]:
        yield gauge("flows_seen_total", "flow records since the start", self.flows.ring.end)
        yield gauge(
            "flow_requests_unreadable_total", "records of the proxy that tell of no request", self._unreadable_requests
        )
        yield gauge("flows_exported_total", "flows that were exported", sum(each.sent for each in self._exports))
        unsent = sum(each.unsent for each in self._exports)
        yield gauge("flows_not_exported_total", "flows that could not be exported", unsent)
        yield gauge("flow_streams", "readers of flows that are connected", len(self.streams))
        yield gauge("flow_streams_refused_total", "readers of flows beyond the limit", self.streams.refused)
        yield gauge("flow_streams_cut_total", "readers of flows that took nothing for too long", self.streams.cut)

    def note_requests(self, records: Iterable[Mapping[str, Any]]) -> None:
        """The node's proxy saw these requests, and connections by TLS; a record that is neither is counted."""
        self._note(
            records,
            lambda record: self._connections.make(record) if "server_name" in record else self._requests.make(record),
        )

    def note_questions(self, records: Iterable[Mapping[str, Any]]) -> None:
        """The node's DNS proxy saw these questions; a record that is none is counted."""
        self._note(records, self._questions.make)

    def _note(
        self, records: Iterable[Mapping[str, Any]], make: Callable[[Mapping[str, Any]], Sequence[FlowEntry]]
    ) -> None:
        for record in records:
            try:
                entries = make(record)
            except (KeyError, ValueError, TypeError):
                self._unreadable_requests += 1
            else:
                self._take(entries)

    def _take(self, entries: Sequence[FlowEntry]) -> None:
        """They are counted, and the newest of the ring."""
        self._meter.note(entries, self.flows.ring.end)
        self.flows.extend(entries)

    async def _follow_events(self) -> None:
        async for batch in self._core.host.events():
            entries = self._maker.make(batch)
            self._take(entries)
            sides = {id(entry.sides): entry.sides for entry in entries}.values()
            found = {name for each in sides if isinstance(each, Sides) for name in namespaces_of(each)}
            self.flows.note_namespaces(found, self._core.clock.monotonic())

    async def _tell_agent_events(self) -> None:
        clock = self._core.clock
        self._told.extend([self._agent_events.started(int(clock.wall() * 1e9))])
        while True:
            if found := self._agent_events.look(int(clock.wall() * 1e9)):
                self._told.extend(found)
            await clock.sleep(AGENT_EVENTS_S)


def _sinks(settings: AgentSettings, cluster: str, node: str) -> Iterator[FlowSink]:
    """The places that `--flow-export-*` names. Raises: RequestError for what is none."""
    if settings.flow_export_file:
        yield FlowFile(settings.flow_export_file, settings.flow_export_mib, settings.flow_export_backups)
    if settings.flow_export_otlp:
        from agent.observe.flow_collector import FlowCollector  # 70 ms of an agent's start, and few have a collector

        yield FlowCollector(settings.flow_export_otlp, settings.flow_export_otlp_ca, cluster, node)
