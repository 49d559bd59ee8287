# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics under one prefix, registered once, whoever asks first."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
LATENCY_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SCRAPE_SHARE: Final = 0.05
M = TypeVar("M", Counter, Gauge, Histogram)


class Registry:
    """The metrics of one program. Asking twice for a name gives the same metric; names get the prefix."""

    def __init__(self, prefix: str = "clustermesh", *, process: bool = True) -> None:
        self.prefix = prefix
        self.collectors = CollectorRegistry()
        self._metrics: dict[str, Counter | Gauge | Histogram] = {}
        if process:
            ProcessCollector(registry=self.collectors)

    def counter(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Counter:
        return self._get(name, Counter, lambda n: Counter(n, help_text, labels, registry=self.collectors))

    def gauge(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Gauge:
        return self._get(name, Gauge, lambda n: Gauge(n, help_text, labels, registry=self.collectors))

    def histogram(
        self, name: str, help_text: str, labels: Sequence[str] = (), buckets: Sequence[float] = LATENCY_BUCKETS_S
    ) -> Histogram:
        return self._get(
            name, Histogram, lambda n: Histogram(n, help_text, labels, registry=self.collectors, buckets=buckets)
        )

    def add_source(self, collect: Callable[[], Iterable[Metric]]) -> None:
        """Metrics that are read from state at scrape time instead of being kept."""
        self.collectors.register(_Source(collect))

    def exposition(self) -> bytes:
        """Every metric in Prometheus' text format."""
        return generate_latest(self.collectors)

    def _get(self, name: str, kind: type[M], make: Callable[[str], M]) -> M:
        full = f"{self.prefix}_{name}" if self.prefix else name
        known = self._metrics.get(full)
        if known is None:
            metric = make(full)
            self._metrics[full] = metric
            return metric
        if not isinstance(known, kind):
            raise ValueError(f"metric {full} is a {type(known).__name__}, not a {kind.__name__}")
        return known


class Scrapes:
    """The exposition for anybody who asks, however often: making it takes no more than SCRAPE_SHARE of the time."""

    def __init__(self, registry: Registry, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._registry, self._monotonic = registry, monotonic
        self._text, self._kept_until_s = b"", -math.inf

    def text(self) -> bytes:
        """As it is now, or was a moment ago."""
        began_s = self._monotonic()
        if began_s >= self._kept_until_s:
            self._text = self._registry.exposition()
            self._kept_until_s = began_s + (self._monotonic() - began_s) / SCRAPE_SHARE
        return self._text


class _Source(Collector):
    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        return self._collect()

    def describe(self) -> Iterable[Metric]:
        return ()
