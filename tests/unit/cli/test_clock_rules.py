# SPDX-License-Identifier: Apache-2.0
"""Clocks of clusters and of nodes: what is only tolerated, what is refused, and what is not sure enough to be said."""

from __future__ import annotations

import time

import pytest

from certs.authority import Authority
from certs.inspect import parse
from certs.profile import DAY_S, Profile
from certs.validity import KeptCertificates
from clustermesh_cli.plan.check_row import CheckResult
from clustermesh_cli.plan.clock_rules import ClusterClock, judge_clocks, judge_nodes, read_clock
from meshapi.agent import AgentStatus
from meshapi.apiserver import ApiserverStatus

NOW_S = time.time()
MADE = Authority.create("north", NOW_S).issue(Profile("remote-north", days=3600 / DAY_S), NOW_S)
KEPT = {"north": [KeptCertificates("certificate that peers know", tuple(parse(MADE.cert_pem)), "run it")]}
ENDS_S = parse(MADE.cert_pem)[0].not_after_s


@pytest.mark.parametrize(
    ("ahead_s", "doubt_s", "result"),
    [
        (0.2, 0.1, CheckResult.OK),
        (30.0, 0.1, CheckResult.OK),
        (31.0, 0.4, CheckResult.WARN),
        (-31.0, 0.4, CheckResult.WARN),
        (33.0, 2.0, CheckResult.OK),
        (4000.0, 0.1, CheckResult.FAIL),
        (-4000.0, 0.1, CheckResult.FAIL),
    ],
)
def test_a_pair_is_judged_by_what_is_sure(ahead_s: float, doubt_s: float, result: CheckResult) -> None:
    clocks = [ClusterClock("north", 0.0, doubt_s), ClusterClock("south", ahead_s, doubt_s)]
    (row,) = judge_clocks(clocks, KEPT, NOW_S + 1)
    assert (row.result, row.clusters, bool(row.next)) == (result, ["north", "south"], result is not CheckResult.OK)
    first = "south is" if ahead_s > 0 else "north is"
    assert row.detail.startswith(f"{first} {abs(ahead_s):.1f} s ahead of ")


def test_few_seconds_are_too_many_at_the_end_of_a_certificate_and_who_refuses_it_is_said() -> None:
    clocks = [ClusterClock("north", 0.0, 0.1), ClusterClock("south", 5.0, 0.1)]
    (row,) = judge_clocks(clocks, KEPT, ENDS_S - 2)
    assert row.result is CheckResult.FAIL
    assert row.detail.endswith("certificate that peers know of north is expired by the clock of south")
    (row,) = judge_clocks(clocks, KEPT, ENDS_S + 10)
    assert row.result is CheckResult.OK, "both refuse it: the row of certificates says so"


def test_a_clock_is_read_between_question_and_answer_and_not_from_a_program_that_does_not_say() -> None:
    assert read_clock("north", 107.0, 99.0, 101.0) == ClusterClock("north", 7.0, 1.0)
    assert read_clock("north", 0.0, 99.0, 101.0) is None


def test_nodes_that_are_off_are_named() -> None:
    agents = [AgentStatus(node=node, now=now) for node, now in (("a", 1000.0), ("b", 1040.0), ("c", 940.0), ("d", 0.0))]
    status = ApiserverStatus(now=1001.0, agents=agents)
    (row,) = judge_nodes("north", status, took_s=0.5)
    assert (row.result, row.detail) == (
        CheckResult.WARN, "clocks of nodes differ from the one of clustermesh-apiserver: b by +39 s, c by -61 s",
    )  # fmt: skip
    assert judge_nodes("north", status, took_s=61.0) == []
    assert judge_nodes("north", ApiserverStatus(agents=agents), took_s=0.5) == []
