# SPDX-License-Identifier: Apache-2.0
"""Hubble's metrics of this node's flows in Prometheus' text format. They may name pods, so a token is asked for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Final

from fastapi import Response
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from flows.meter import BUCKETS_S, FlowMeter
from flows.proto import flow_pb2 as pb
from meshkit.metrics import CONTENT_TYPE, Registry, Scrapes
from meshkit.rest import Rest

PREFIX: Final = "hubble"


def add_flow_metrics(rest: Rest, meter: FlowMeter, lost: Callable[[], int]) -> None:
    """`lost` counts the kernel's events that never came."""
    registry = Registry(PREFIX, process=False)
    registry.add_source(lambda: collect(meter, lost()))
    scrapes = Scrapes(registry)

    @rest.get_stream("/v1/flows/metrics", str, CONTENT_TYPE, tag="flows")
    async def flow_metrics() -> Response:
        """What `--flow-metrics` asks for, since this agent's start, as Hubble names it."""
        return Response(scrapes.text(), headers={"content-type": CONTENT_TYPE})


def collect(meter: FlowMeter, lost: int) -> Iterable[Metric]:
    """One family for each metric, without series while nothing was counted."""
    for family in meter.families():
        name, about = f"{PREFIX}_{family.name}", family.about.help
        if family.about.is_histogram:
            histogram = HistogramMetricFamily(name, about, labels=family.labels)
            for labels, (counts, total) in sorted(family.histograms.items()):
                bounds = [*map(str, BUCKETS_S), "+Inf"]
                histogram.add_metric(labels, list(zip(bounds, accumulate(counts), strict=True)), total)
            yield histogram
        else:
            counter = CounterMetricFamily(name, about, labels=family.labels)
            for labels, value in sorted(family.counts.items()):
                counter.add_metric(labels, value)
            yield counter
    missed = CounterMetricFamily(f"{PREFIX}_lost_events", "events that are in no flow", labels=["source"])
    missed.add_metric([pb.LostEventSource.Name(pb.PERF_EVENT_RING_BUFFER)], lost)
    yield missed
    left_out = CounterMetricFamily(f"{PREFIX}_series_left_out", "counts for which there is no room for a series")
    left_out.add_metric([], meter.left_out)
    yield left_out
