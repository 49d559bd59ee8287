# SPDX-License-Identifier: Apache-2.0
"""What came back from a curl loop, and whether it is what it should be: by set and by range, never by order. Pure."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

FALSE_ALARM: Final = 1e-9
CLUSTER: Final = re.compile(r'"Cluster": "(\w+)"')
TIMED_OUT: Final = re.compile(r"curl: \(28\)")
OTHER_FAILURE: Final = re.compile(r"curl: \((\d+)\)")


@dataclass(frozen=True, slots=True)
class Tally:
    """How a number of requests ended: answers by cluster, time-outs, and anything else by curl's exit code."""

    answers: Mapping[str, int]
    timeouts: int
    others: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.answers.values()) + self.timeouts + sum(self.others.values())

    def __str__(self) -> str:
        parts = [f"{name} {count}" for name, count in sorted(self.answers.items())]
        parts += [f"timed out {self.timeouts}"] if self.timeouts else []
        parts += [f"curl error {code}: {count}" for code, count in sorted(self.others.items())]
        return ", ".join(parts) or "nothing"


def tally(text: str) -> Tally:
    """Count the answers and failures in the output of a curl loop."""
    answers, others, timeouts = Counter(CLUSTER.findall(text)), Counter(OTHER_FAILURE.findall(text)), 0
    timeouts = others.pop("28", 0)
    return Tally(dict(answers), timeouts, dict(others))


@dataclass(frozen=True, slots=True)
class Expectation:
    """Which outcomes may occur, each with the share of requests it should have. `timeouts` names the silent share."""

    shares: Mapping[str, float]
    timeouts: float = 0.0

    def problems(self, found: Tally, requests: int) -> list[str]:
        """Everything that is not as it should be; empty for a right result."""
        wrong = []
        if found.total != requests:
            wrong.append(f"{found.total} outcomes of {requests} requests")
        counted = {**found.answers, **{f"curl error {code}": n for code, n in found.others.items()}}
        strange = sorted(set(counted) - set(self.shares))
        wrong += [f"{counted[name]} x {name}, which should not occur" for name in strange]
        expected = {**self.shares, "timed out": self.timeouts}
        counted["timed out"] = found.timeouts
        for name, share in sorted(expected.items()):
            low, high = likely_range(requests, share)
            if not low <= counted.get(name, 0) <= high:
                wrong.append(f"{counted.get(name, 0)} x {name}, expected {low} to {high}")
        return wrong

    def is_reached(self, found: Tally) -> bool:
        """Whether a small sample shows all expected outcomes and no others: the change has arrived."""
        seen = {name for name, count in found.answers.items() if count} | ({"timed out"} if found.timeouts else set())
        return not found.others and seen == set(self.shares) | ({"timed out"} if self.timeouts else set())


def only(cluster: str) -> Expectation:
    return Expectation({cluster: 1.0})


def both() -> Expectation:
    """Two equal backends on either side."""
    return Expectation({"Koornacht": 0.5, "Tion": 0.5})


def silence() -> Expectation:
    return Expectation({}, timeouts=1.0)


def half_silent(cluster: str) -> Expectation:
    return Expectation({cluster: 0.5}, timeouts=0.5)


def likely_range(trials: int, share: float, false_alarm: float = FALSE_ALARM) -> tuple[int, int]:
    """The smallest range round the mean that a right binomial count leaves with at most this probability."""
    if share <= 0.0:
        return 0, 0
    if share >= 1.0:
        return trials, trials
    weights = [math.comb(trials, k) * share**k * (1 - share) ** (trials - k) for k in range(trials + 1)]
    low, below = 0, 0.0
    while below + weights[low] <= false_alarm / 2:
        below += weights[low]
        low += 1
    high, above = trials, 0.0
    while above + weights[high] <= false_alarm / 2:
        above += weights[high]
        high -= 1
    return low, high
