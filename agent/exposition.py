# SPDX-License-Identifier: Apache-2.0
"""Metrics of the agent as a whole, and those of its features, read from state when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from agent.core import Core
from agent.datapath.layout import Direction
from agent.datapath.reasons import Reason
from agent.feature import Feature
from agent.metric import PREFIX
from agent.reports import Reconcilers, map_names


def collect_metrics(core: Core, features: Iterable[Feature], reconcilers: Reconcilers) -> Iterable[Metric]:
    """Everything an operator would graph or alert on."""
    for feature in features:
        yield from feature.metrics()
    yield from _drops(core)
    yield from _fill(core)
    pending = GaugeMetricFamily(f"{PREFIX}_map_pending", "rows waiting to be written", labels=["table"])
    failing = GaugeMetricFamily(f"{PREFIX}_map_failing", "rows that could not be written", labels=["table"])
    crowded = GaugeMetricFamily(f"{PREFIX}_map_without_room", "rows for which the map has no room", labels=["table"])
    repaired = CounterMetricFamily(
        f"{PREFIX}_map_repaired", "rows that others had changed in the map", labels=["table"]
    )
    for name, reconciler in reconcilers.items():
        status = reconciler.status()
        pending.add_metric([name], status.pending)
        failing.add_metric([name], status.failed)
        crowded.add_metric([name], status.waiting_for_room)
        repaired.add_metric([name], status.repaired_total)
    yield from (pending, failing, crowded, repaired)


def _fill(core: Core) -> Iterable[Metric]:
    entries = GaugeMetricFamily(f"{PREFIX}_map_entries", "entries of a kernel map", labels=["map"])
    limits = GaugeMetricFamily(f"{PREFIX}_map_max_entries", "entries that a kernel map can hold", labels=["map"])
    for name in map_names(core.maps):
        info = getattr(core.maps, name).info()
        entries.add_metric([name], info.count)
        limits.add_metric([name], info.max_entries)
    yield from (entries, limits)


def drops(metrics: Iterable[tuple[Any, Any]]) -> Mapping[tuple[int, int], int]:
    """Packets by (reason, direction) of the kernel's counters."""
    return {(key.reason, key.direction): value.packets for key, value in metrics if value.packets}


_FLOW_STATES = {
    Reason.FLOW_OPENED: "opened",
    Reason.FLOW_ESTABLISHED: "established",
    Reason.FLOW_UNATTENDED: "unattended",
    Reason.FLOW_OF_NODE: "of-node",
    Reason.FLOW_OF_OUTSIDERS: "of-outsiders",
}


def _drops(core: Core) -> Iterable[Metric]:
    family = CounterMetricFamily(f"{PREFIX}_drop", "packets dropped", labels=["reason", "direction"])
    flows = CounterMetricFamily(f"{PREFIX}_flows", "flows tracked, by how far they came", labels=["state", "direction"])
    unknown = 0
    for (reason, direction), packets in sorted(drops(core.maps.metrics.items()).items()):
        try:
            known = Reason(reason)
        except ValueError:
            continue
        if known.dropped:
            family.add_metric([known.text, Direction(direction & 1).name.lower()], packets)
        if known in _FLOW_STATES:
            flows.add_metric([_FLOW_STATES[known], Direction(direction & 1).name.lower()], packets)
        if known is Reason.UNKNOWN_IDENTITY:
            unknown += packets
    yield family
    yield flows
    late = CounterMetricFamily(f"{PREFIX}_policy_drop_unknown_remote_identity", "drops of peers not known yet")
    late.add_metric([], unknown)
    yield late
    lost = CounterMetricFamily(f"{PREFIX}_lost_events", "events the kernel could not deliver")
    lost.add_metric([], sum(core.host.lost()))
    yield lost
