# SPDX-License-Identifier: Apache-2.0
"""Flows counted as they come, without decoding most of them. Pure.

Flows with equal sides and equal head add the same, so what they add is found once and then only how many there were; but for
messages of proxies, and where a measure looks at ports.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from flows.measure import FAMILIES, FAMILIES_OF, Measure, MeasuredFamily, Sample
from flows.ring import Decode, FlowEntry, Item

BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
MOST_SERIES: Final = 10_000
"""Of one family; what would be one more is counted as left out."""
_WAITING: Final = 4096
_REMEMBERED: Final = 1 << 15


class MeteredFamily(NamedTuple):
    """A family, all its labels, and each series with its value, or with counts of its buckets and the sum."""

    name: str
    about: MeasuredFamily
    labels: tuple[str, ...]
    counts: dict[tuple[str, ...], float]
    histograms: dict[tuple[str, ...], tuple[list[int], float]]


class FlowMeter:
    """What these measures say of all flows since the start."""

    def __init__(self, measures: Sequence[Measure], decode: Decode) -> None:
        self._measures, self._decode = measures, decode
        self._decodes_all = any(measure.looks_at_ports for measure in measures)
        self._families = {
            name: MeteredFamily(name, FAMILIES[name], (*FAMILIES[name].labels, *measure.context_labels), {}, {})
            for measure in measures
            for name in FAMILIES_OF[measure.name]
        }
        self._waiting: Counter[tuple[Hashable, Hashable]] = Counter()
        self._samples: dict[tuple[Hashable, Hashable], tuple[Sample, ...] | None] = {}
        self.left_out = 0

    def note(self, items: Iterable[Item], first: int) -> None:
        """These came, numbered from `first`."""
        if not self._measures:
            return
        waiting, known = self._waiting, self._samples
        for number, item in enumerate(items, first):
            if not isinstance(item, FlowEntry):
                continue
            key = item.sides, item.head
            found = known.get(key)
            if found is None:
                found = self._look(item, number, key)
            if found:
                waiting[key] += 1
        if len(waiting) >= _WAITING:
            self._fold()

    def families(self) -> Iterator[MeteredFamily]:
        """As of now."""
        self._fold()
        yield from self._families.values()

    def _look(self, item: FlowEntry, number: int, key: tuple[Hashable, Hashable]) -> tuple[Sample, ...] | None:
        """What each flow of the key adds. None: each adds what is its own, and this one was added."""
        flow = self._decode(item, number)
        samples = tuple(sample for measure in self._measures for sample in measure.samples(flow))
        if item.head is None or self._decodes_all or flow.HasField("l7"):
            for sample in samples:
                self._add(sample, 1)
            return None
        if len(self._samples) >= _REMEMBERED:
            self._fold()
            self._samples.clear()
        self._samples[key] = samples
        return samples

    def _fold(self) -> None:
        for key, number in self._waiting.items():
            for sample in self._samples[key] or ():
                self._add(sample, number)
        self._waiting.clear()

    def _add(self, sample: Sample, times: int) -> None:
        name, labels, value = sample
        family = self._families[name]
        held = family.histograms if family.about.is_histogram else family.counts
        if labels not in held and len(held) >= MOST_SERIES:
            self.left_out += times
        elif family.about.is_histogram:
            counts, total = family.histograms.setdefault(labels, ([0] * (len(BUCKETS_S) + 1), 0.0))
            counts[bisect_left(BUCKETS_S, value)] += times
            family.histograms[labels] = counts, total + value * times
        else:
            family.counts[labels] = family.counts.get(labels, 0.0) + value * times
