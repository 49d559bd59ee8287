# SPDX-License-Identifier: Apache-2.0
"""Whether the clocks of clusters, and of the nodes of one, agree as far as certificates and times need. Pure.

A program says what its clock showed when it answered; between the moments before the question and after the answer that
is known within half the time in between. Only what is sure is judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from certs.validity import KeptCertificates, judge
from clustermesh_cli.plan.check_row import CheckResult, CheckRow
from meshapi.apiserver import ApiserverStatus
from meshapi.installed import APISERVER

CLOCKS: Final = "clocks"
MOST_SKEW_S: Final = 30.0
LEAST_SKEW_S: Final = 1.0
"""Below it nothing is said of certificates: they are issued for longer than that, and moments are whole seconds."""
CORRECT: Final = "correct the clocks of the nodes: timedatectl there, or their NTP servers"


@dataclass(frozen=True, slots=True)
class ClusterClock:
    """A cluster's clock, as its apiserver has it: seconds ahead of ours, and how far that may be off."""

    cluster: str
    ahead_s: float
    doubt_s: float


def read_clock(cluster: str, shown_s: float, asked_s: float, answered_s: float) -> ClusterClock | None:
    """From what it showed, and our wall seconds before and after; None for a program that does not say."""
    if not shown_s:
        return None
    return ClusterClock(cluster, shown_s - (asked_s + answered_s) / 2, (answered_s - asked_s) / 2)


def judge_clocks(
    clocks: Sequence[ClusterClock], kept: Mapping[str, Sequence[KeptCertificates]], wall_s: float
) -> list[CheckRow]:
    """A row for each pair: it fails if one would refuse a certificate that the other takes for valid."""
    return [_judge_pair(a, b, kept, wall_s) for a, b in combinations(clocks, 2)]


def judge_nodes(cluster: str, status: ApiserverStatus, took_s: float) -> list[CheckRow]:
    """The clocks of the cluster's agents against its apiserver's, all read within `took_s`; who does not say is left out."""
    if not status.now:
        return []
    off = {agent.node: agent.now - status.now for agent in status.agents if agent.now}
    wrong = {node: skew_s for node, skew_s in off.items() if abs(skew_s) - took_s > MOST_SKEW_S}
    if not wrong:
        return []
    said = ", ".join(f"{node} by {_signed(skew_s)}" for node, skew_s in sorted(wrong.items()))
    detail = f"clocks of nodes differ from the one of {APISERVER}: {said}"
    return [CheckRow(check=CLOCKS, clusters=[cluster], result=CheckResult.WARN, detail=detail, next=CORRECT)]


def _judge_pair(
    a: ClusterClock, b: ClusterClock, kept: Mapping[str, Sequence[KeptCertificates]], wall_s: float
) -> CheckRow:
    both, apart_s = [a.cluster, b.cluster], abs(a.ahead_s - b.ahead_s)
    doubt_s = a.doubt_s + b.doubt_s
    first, second = (a, b) if a.ahead_s >= b.ahead_s else (b, a)
    said = f"{first.cluster} is {apart_s:.1f} s ahead of {second.cluster} (measured within {doubt_s:.1f} s)"
    if apart_s - doubt_s > LEAST_SKEW_S:
        disputed = list(_disputed(a, b, kept, wall_s))
        if disputed:
            detail = f"{said}; they judge differently: {'; '.join(disputed)}"
            return CheckRow(check=CLOCKS, clusters=both, result=CheckResult.FAIL, detail=detail, next=CORRECT)
    if apart_s - doubt_s > MOST_SKEW_S:
        return CheckRow(check=CLOCKS, clusters=both, result=CheckResult.WARN, detail=said, next=CORRECT)
    return CheckRow(check=CLOCKS, clusters=both, result=CheckResult.OK, detail=said)


def _disputed(
    a: ClusterClock, b: ClusterClock, kept: Mapping[str, Sequence[KeptCertificates]], wall_s: float
) -> Iterable[str]:
    for cluster in (a.cluster, b.cluster):
        for one in kept.get(cluster, ()):
            states = {clock.cluster: judge(wall_s + clock.ahead_s, one) for clock in (a, b)}
            refusing = [name for name, state in states.items() if state.is_refused]
            if len(refusing) == 1:
                yield f"{one.what} of {cluster} is {states[refusing[0]].validity} by the clock of {refusing[0]}"


def _signed(seconds: float) -> str:
    return f"{seconds:+.0f} s"
