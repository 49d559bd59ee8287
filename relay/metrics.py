# SPDX-License-Identifier: Apache-2.0
"""Metrics of the relay, read from its parts when somebody asks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric

from flows.proto import relay_pb2 as relay
from flows.streams import FlowStreams
from meshkit.metrics import Registry
from meshkit.version import program_version
from relay.links import ObserverLink
from relay.mesh import FlowMesh

PREFIX: Final = "clustermesh_relay"


def make_registry(mesh: FlowMesh, streams: FlowStreams) -> Registry:
    """The registry of this program."""
    registry = Registry(PREFIX)
    registry.add_source(lambda: _collect(mesh, streams))
    return registry


def _collect(mesh: FlowMesh, streams: FlowStreams) -> Iterable[Metric]:
    yield InfoMetricFamily(PREFIX, "this program", value={"version": program_version()})
    yield _connected("nodes", "nodes of this cluster, by whether their observer answers", mesh.observers.rows())
    yield _connected("peers", "peers that granted flows, by whether their relay answers", mesh.peers.rows())
    open_ = GaugeMetricFamily(f"{PREFIX}_streams", "readers of flows that are connected")
    open_.add_metric((), len(streams))
    yield open_
    for name, help_text, value in (
        ("streams_refused", "readers of flows beyond the limit", streams.refused),
        ("streams_cut", "readers of flows that took nothing for too long", streams.cut),
    ):
        counter = CounterMetricFamily(f"{PREFIX}_{name}", help_text)
        counter.add_metric((), value)
        yield counter


def _connected(name: str, help_text: str, links: Iterable[ObserverLink]) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}_{name}", help_text, labels=("state",))
    states = [link.state for link in links]
    family.add_metric(("connected",), states.count(relay.NODE_CONNECTED))
    family.add_metric(("unavailable",), len(states) - states.count(relay.NODE_CONNECTED))
    return family
