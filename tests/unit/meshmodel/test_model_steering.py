# SPDX-License-Identifier: Apache-2.0
"""Annotations of ours on Services: what they mean, and what their owner is told where they mean nothing."""

from __future__ import annotations

import pytest

from meshmodel.algorithm import LB_ALGORITHM, Algorithm
from meshmodel.annotations import AFFINITY, GLOBAL, SHARED, parse_service_annotations
from meshmodel.export_scope import EXPORT_TO
from meshmodel.health_probe import HEALTH_PROBE, HealthProbe
from meshmodel.steering import NO_STEERING, ON_UNREACHABLE, ORDER, SLOW_START, THRESHOLD, WEIGHTS, Steering


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({}, NO_STEERING),
        ({ORDER: "tion, local ,*"}, Steering(order=("tion", "local", "*"))),
        ({WEIGHTS: "tion=3, local=0"}, Steering(weights=(("tion", 3), ("local", 0)))),
        ({ON_UNREACHABLE: "Keep"}, Steering(keeps_unreachable=True)),
        ({ON_UNREACHABLE: "withdraw"}, NO_STEERING),
        ({ORDER: "tion", THRESHOLD: " 50 %"}, Steering(order=("tion",), threshold_percent=50)),
        ({SLOW_START: "60"}, Steering(slow_start_s=60)),
        ({SLOW_START: "3600s"}, Steering(slow_start_s=3600)),
    ],
)
def test_steering(annotations: dict[str, str], expected: Steering) -> None:
    found = parse_service_annotations({GLOBAL: "true", **annotations})
    assert (found.steering, found.problems) == (expected, ())
    alone = parse_service_annotations(annotations)
    assert alone.steering == NO_STEERING
    assert bool(alone.problems) == (expected != NO_STEERING)


@pytest.mark.parametrize(
    ("name", "value", "mentioned"),
    [
        (ORDER, "", "1 to 32 characters"),
        (ORDER, "tion,,*", "1 to 32 characters"),
        (ORDER, "Tion", "lower-case"),
        (ORDER, "tion,local,tion", "tion is named twice"),
        (ORDER, ",".join(f"c{n}" for n in range(600)), "511 at most"),
        (WEIGHTS, "tion", "expected CLUSTER=NUMBER"),
        (WEIGHTS, "tion=-1", "expected CLUSTER=NUMBER"),
        (WEIGHTS, "tion=1.5", "expected CLUSTER=NUMBER"),
        (WEIGHTS, "tion=\u00b2", "expected CLUSTER=NUMBER"),
        (WEIGHTS, "tion=1001", "the largest weight is 1000"),
        (WEIGHTS, "tion=" + "9" * 5000, "expected CLUSTER=NUMBER"),
        (WEIGHTS, "tion=1,tion=2", "tion is named twice"),
        (ON_UNREACHABLE, "drain", "neither"),
        (THRESHOLD, "0", "is not a percentage from 1 to 100"),
        (THRESHOLD, "101%", "is not a percentage from 1 to 100"),
        (THRESHOLD, "50s", "is not a percentage from 1 to 100"),
        (THRESHOLD, "\u0665", "is not a percentage from 1 to 100"),
        (THRESHOLD, "9" * 5000, "is not a percentage from 1 to 100"),
        (SLOW_START, "1m", "is not a number of seconds from 1 to 3600"),
        (SLOW_START, "3601", "is not a number of seconds from 1 to 3600"),
    ],
)
def test_steering_that_means_nothing_is_told_and_has_no_effect(name: str, value: str, mentioned: str) -> None:
    found = parse_service_annotations({GLOBAL: "true", name: value})
    assert found.steering == NO_STEERING
    [problem] = found.problems
    assert mentioned in problem
    assert name in problem
    assert len(problem) < 400


def test_an_order_goes_before_affinity_and_says_so() -> None:
    found = parse_service_annotations({GLOBAL: "true", AFFINITY: "local", ORDER: "tion,*"})
    assert found.steering.order == ("tion", "*")
    assert found.problems == (f"{AFFINITY} has no effect beside {ORDER}",)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("tcp", HealthProbe()),
        (" TCP ", HealthProbe()),
        ("http:/healthz?full=1", HealthProbe("/healthz?full=1")),
        ("HTTP:/", HealthProbe("/")),
        ("http", None),
        ("http:healthz", None),
        ("http:/a b", None),
        ("http:/a\r\nHost: x", None),
        ("http:/" + "a" * 1024, None),
        ("grpc", None),
        ("", None),
    ],
)
def test_a_health_probe_is_tcp_or_a_path_that_fits_one_line(value: str, expected: HealthProbe | None) -> None:
    found = parse_service_annotations({GLOBAL: "true", HEALTH_PROBE: value})
    assert found.health_probe == expected
    assert [HEALTH_PROBE in problem for problem in found.problems] == [True] * (expected is None)
    alone = parse_service_annotations({HEALTH_PROBE: value})
    assert alone.health_probe is None
    assert alone.problems


@pytest.mark.parametrize(
    ("value", "expected", "has_problem"),
    [("maglev", Algorithm.MAGLEV, False), (" Random ", Algorithm.RANDOM, False), ("", None, True), ("rr", None, True)],
)
@pytest.mark.parametrize("is_global", ["true", "false"])
def test_every_service_may_say_how_it_chooses(
    value: str, expected: Algorithm | None, has_problem: bool, is_global: str
) -> None:
    found = parse_service_annotations({GLOBAL: is_global, LB_ALGORITHM: value})
    assert found.algorithm is expected
    assert [LB_ALGORITHM in problem for problem in found.problems] == [True] * has_problem


@pytest.mark.parametrize(
    ("value", "expected", "mentioned"),
    [
        ("*", None, ""),
        ("tion , east,tion", ("east", "tion"), ""),
        ("", (), "1 to 32 characters"),
        ("tion,*", (), "cluster name"),
        ("Tion", (), "lower-case"),
        (",".join(f"c{n}" for n in range(600)), (), "511 at most"),
    ],
)
def test_who_may_use_a_service_is_who_is_named_and_nobody_where_that_cannot_be_read(
    value: str, expected: tuple[str, ...] | None, mentioned: str
) -> None:
    found = parse_service_annotations({GLOBAL: "true", EXPORT_TO: value})
    assert found.export_to == expected
    assert [mentioned in problem and EXPORT_TO in problem for problem in found.problems] == [True] * bool(mentioned)


def test_a_scope_needs_something_that_is_shared() -> None:
    assert "no effect" in parse_service_annotations({EXPORT_TO: "tion"}).problems[0]
    assert "no effect" in parse_service_annotations({GLOBAL: "true", SHARED: "false", EXPORT_TO: "tion"}).problems[0]


def test_a_threshold_needs_tiers() -> None:
    found = parse_service_annotations({GLOBAL: "true", THRESHOLD: "50"})
    assert found.problems == (f"{THRESHOLD} has no effect without {AFFINITY} or {ORDER}",)
    assert not parse_service_annotations({GLOBAL: "true", THRESHOLD: "50", AFFINITY: "remote"}).problems
