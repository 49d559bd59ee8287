# SPDX-License-Identifier: Apache-2.0
"""Ports as masked prefixes, names and protocols."""

from __future__ import annotations

import pytest

from meshpolicy.port import PORTLESS_PROTOCOLS, SCTP, TCP, UDP, L4Key, PortSpec, masked_ports, parse_protocol
from meshpolicy.ports_of_pods import PortsOfPods

RANGES = [
    (0, 0),
    (0, 65535),
    (0, 100),
    (1, 65535),
    (1, 65534),
    (80, 80),
    (80, 10),
    (79, 81),
    (8000, 8100),
    (65535, 65535),
]


@pytest.mark.parametrize(("first", "last"), RANGES)
def test_masked_ports_cover_exactly_the_range_with_at_most_30_entries(first: int, last: int) -> None:
    masks = list(masked_ports(first, last))
    covered = [port for port, bits in masks for port in range(port, port + (1 << (16 - bits)))]
    end = 65535 if (first, last) == (0, 0) else max(first, last)
    assert sorted(covered) == list(range(first, end + 1))
    assert len(masks) <= 30


def test_the_worst_range_takes_30_entries() -> None:
    assert max(len(list(masked_ports(first, last))) for first in (0, 1, 3) for last in (65534, 65533, 32766)) == 30


@pytest.mark.parametrize(
    ("broad", "narrow", "covers"),
    [
        (L4Key(0, 0, 0), L4Key(6, 80, 16), True),
        (L4Key(6, 0, 0), L4Key(6, 80, 16), True),
        (L4Key(6, 0, 0), L4Key(17, 80, 16), False),
        (L4Key(6, 80, 15), L4Key(6, 81, 16), True),
        (L4Key(6, 80, 16), L4Key(6, 80, 15), False),
        (L4Key(6, 0, 0), L4Key(0, 0, 0), False),
    ],
)
def test_covers(broad: L4Key, narrow: L4Key, *, covers: bool) -> None:
    assert broad.covers(narrow) is covers


def test_any_is_tcp_udp_and_sctp_but_not_icmp() -> None:
    assert parse_protocol("") == parse_protocol("any") == (TCP, UDP, SCTP)


@pytest.mark.parametrize("name", PORTLESS_PROTOCOLS)
def test_a_protocol_without_ports_is_meant_as_a_whole(name: str) -> None:
    (number,) = parse_protocol(name.lower())
    assert PortSpec(number).map_keys() == (L4Key(number, 0, 0),)
    assert str(PortSpec(number)) == f"0/{name}"


def test_a_name_resolves_only_for_its_protocol() -> None:
    spec = PortSpec(TCP, name="http")
    assert spec.resolved({"http": (80, TCP)}) == PortSpec(TCP, 80, 80)
    assert spec.resolved({"http": (80, 0)}) == PortSpec(TCP, 80, 80)
    assert spec.resolved({"http": (80, UDP)}) is None
    assert spec.resolved({}) is None


def test_egress_names_mean_what_pods_of_the_peers_identity_define() -> None:
    pods, http = PortsOfPods(), PortSpec(TCP, name="http")
    assert pods.set_pod("a", 300, {"HTTP": (80, TCP)}) == {300: {"http"}}
    assert pods.set_pod("b", 300, {"http": (80, TCP)}) == {}
    assert pods.set_pod("c", 301, {"http": (9090, TCP)}) == {301: {"http"}}
    assert pods.resolve(http, 300) == (PortSpec(TCP, 80, 80),)
    assert pods.resolve(http, 301) == (PortSpec(TCP, 9090, 9090),)
    assert pods.resolve(http, 302) == pods.resolve(PortSpec(17, name="http"), 300) == ()
    assert pods.set_pod("b", 300, {"http": (8080, TCP)}) == {300: {"http"}}
    assert pods.resolve(http, 300) == (PortSpec(TCP, 80, 80), PortSpec(TCP, 8080, 8080))
    assert pods.set_pod("b", 301, {"http": (8080, TCP)}) == {300: {"http"}, 301: {"http"}}
    assert pods.identities_with(["http"]) == {300, 301}
    assert pods.set_pod("a", 0, {}) == {300: {"http"}}
    assert pods.identities_with(["http"]) == {301}
