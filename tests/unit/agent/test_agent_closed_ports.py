# SPDX-License-Identifier: Apache-2.0
"""Endpoints are told of a port that nobody listens on once the proxy had time to open it, and when that is over."""

from __future__ import annotations

from agent.closed_ports import PATIENCE_S, ClosedPorts

ONE, OTHER = 14001, 14002


def test_endpoints_of_a_port_that_stays_closed_are_told_until_it_is_open() -> None:
    changes = list[str]()
    ports = ClosedPorts(lambda: changes.append("changed"))
    ports.compare(frozenset(), 0.0, lambda: "unused")
    assert (ports.missing, ports.pause_s) == (set(), None)
    ports.users = {ONE: {"10.1.0.5", "10.1.0.4"}, OTHER: {"10.1.0.6"}}
    ports.compare(frozenset((OTHER,)), 10.0, lambda: "early")
    assert (ports.missing, ports.failures, changes) == ({ONE}, {}, [])
    ports.compare(frozenset((OTHER,)), 10.0 + PATIENCE_S, lambda: "late")
    ports.compare(frozenset((OTHER,)), 20.0, lambda: "late")
    assert (dict(ports.failures), changes) == ({"10.1.0.4": "late", "10.1.0.5": "late"}, ["changed"])
    ports.compare(frozenset((ONE, OTHER)), 21.0, lambda: "none")
    assert (ports.missing, ports.failures, changes) == (set(), {}, ["changed"] * 2)
    ports.compare(frozenset((OTHER,)), 22.0, lambda: "early again")
    assert ports.failures == {}


def test_a_closed_port_is_looked_at_more_often_than_open_ones() -> None:
    ports = ClosedPorts(lambda: None)
    ports.users = {ONE: {"10.1.0.5"}}
    ports.compare(frozenset((ONE,)), 0.0, lambda: "")
    calm_s = ports.pause_s
    ports.compare(frozenset(), 1.0, lambda: "")
    assert calm_s is not None
    assert ports.pause_s is not None
    assert ports.pause_s < calm_s
