# SPDX-License-Identifier: Apache-2.0
"""Every backend that takes no new connections has a reason, and the others have shares that add up to one."""

from __future__ import annotations

from typing import Any

from agent_world_of_services import rows_of

from agent.tables import Backend, Hints
from meshmodel.annotations import Affinity
from meshmodel.condition import Condition
from meshmodel.steering import Steering

HERE = Backend("10.1.0.1", 80, "TCP", node="n1")
ELSEWHERE = Backend("10.1.0.2", 80, "TCP", node="n2", zone="a")
ENDING = Backend("10.1.0.3", 80, "TCP", node="n1", condition=Condition.TERMINATING)
REMOTE = Backend("10.2.0.1", 80, "TCP", zone="b")


def reasons(north: list[Backend], south: list[Backend], **more: Any) -> dict[str, str]:
    """By address; "" for what is chosen."""
    (row,) = rows_of(north, south, **more)
    shares = [backend.share for backend in row.backends]
    assert abs(sum(shares) - 1) < 0.001 or not any(shares)
    assert all((backend.share > 0) is backend.chosen is (not backend.reason) for backend in row.backends)
    return {backend.address: backend.reason for backend in row.backends}


def test_of_a_service_that_is_not_global() -> None:
    found = reasons([HERE, ENDING], [REMOTE], is_global=False)
    assert found == {"10.1.0.1": "", "10.1.0.3": "it ends", "10.2.0.1": "the service is not global"}


def test_of_affinity_and_order() -> None:
    found = reasons([HERE], [REMOTE], affinity=Affinity.LOCAL)
    assert found == {"10.1.0.1": "", "10.2.0.1": "affinity local: local backends are available"}
    found = reasons([HERE], [REMOTE], steering=Steering(order=("south", "local")))
    assert found == {"10.1.0.1": "affinity-order: south", "10.2.0.1": ""}


def test_of_weights() -> None:
    found = reasons([HERE], [REMOTE], steering=Steering(weights=(("south", 0),)))
    assert found == {"10.1.0.1": "", "10.2.0.1": "south has weight 0"}
    (row,) = rows_of([HERE, ELSEWHERE], [REMOTE], steering=Steering(weights=(("local", 1), ("south", 1))))
    assert {backend.address: backend.share for backend in row.backends} == {
        "10.1.0.1": 0.25, "10.1.0.2": 0.25, "10.2.0.1": 0.5,
    }  # fmt: skip


def test_of_a_threshold() -> None:
    lost = ELSEWHERE._replace(is_healthy=False)
    steering = Steering(order=("local", "south"), threshold_percent=50)
    assert reasons([HERE, lost], [REMOTE], steering=steering) == {
        "10.1.0.1": "", "10.1.0.2": "its node does not answer probes",
        "10.2.0.1": "affinity-threshold 50%: local 100%",
    }  # fmt: skip
    steering = steering._replace(threshold_percent=100)
    (row,) = rows_of([HERE, lost], [REMOTE], steering=steering)
    assert {backend.address: backend.share for backend in row.backends} == {
        "10.1.0.1": 0.5, "10.1.0.2": 0.0, "10.2.0.1": 0.5,
    }  # fmt: skip


def test_of_the_internal_traffic_policy() -> None:
    found = reasons([HERE, ELSEWHERE], [REMOTE], is_internal_local=True)
    elsewhere = "it is not on this node (internalTrafficPolicy Local)"
    assert found == {"10.1.0.1": "", "10.1.0.2": elsewhere, "10.2.0.1": elsewhere}


def test_of_hints() -> None:
    here = HERE._replace(hints=Hints(("a",)))
    far = ELSEWHERE._replace(hints=Hints(("b",), ("n2",)))
    assert reasons([here, far], [], zone="a") == {"10.1.0.1": "", "10.1.0.2": "it is hinted for node n2 and zone b"}


def test_of_health() -> None:
    assert reasons([HERE], [REMOTE], withdrawn=True) == {"10.1.0.1": "", "10.2.0.1": "south is withdrawn"}
    found = reasons([HERE], [REMOTE], unreachable=frozenset({"10.2.0.1"}))
    assert found == {"10.1.0.1": "", "10.2.0.1": "its node does not answer probes"}
