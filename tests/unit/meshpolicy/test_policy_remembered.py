# SPDX-License-Identifier: Apache-2.0
"""What the parser remembers between documents: never an answer to another question, and nothing that a tenant made large."""

from __future__ import annotations

from typing import Any

import pytest

from meshpolicy import Policy, PolicyContext, PolicyError, parse_policy, parse_ports, parse_selector
from meshpolicy.port import PortSpec

NORTH = PolicyContext("north")


def parse(port: Any, labels: dict[Any, Any] | None = None) -> Policy:
    spec = {"endpointSelector": {"matchLabels": labels or {}}, "ingress": [{"toPorts": [{"ports": [port]}]}]}
    return parse_policy({"kind": "CiliumNetworkPolicy", "metadata": {"name": "p"}, "spec": spec}, NORTH)


@pytest.mark.parametrize(
    "odd",
    [
        {"port": 80, "protocol": "TCP"},
        {"port": "80", "endPort": True, "protocol": "TCP"},
        {"port": "80", "endPort": "90", "protocol": "TCP"},
        {"port": "80", "endPort": [90], "protocol": "TCP"},
        {"port": ["80"], "protocol": "TCP"},
        {"port": {"80": 1}, "protocol": "TCP"},
        {"port": "80", "protocol": ["TCP"]},
        {"port": "80", "protocol": 6},
        {"port": "80" * 500_000, "protocol": "TCP"},
    ],
    ids=lambda odd: str(odd)[:60],
)
def test_an_odd_port_is_refused_after_its_plain_twin_was_accepted(odd: dict[str, Any]) -> None:
    assert parse({"port": "80", "endPort": 1000, "protocol": "TCP"}).rules[0].ports == (PortSpec(6, 80, 1000),)
    assert parse({"port": "80", "endPort": 80, "protocol": "TCP"}).rules[0].ports == (PortSpec(6, 80, 80),)
    with pytest.raises(PolicyError):
        parse(odd)


def test_ports_read_alike_whether_remembered_or_not() -> None:
    for _ in range(2):
        assert parse({"port": "0"}).rules[0].ports == (PortSpec(6), PortSpec(17), PortSpec(132))
        assert parse({"port": "010", "protocol": "TCP"}).rules[0].ports == (PortSpec(6, 8, 8),)
        assert parse({"port": "80", "endPort": 10, "protocol": "TCP"}).warnings
        assert parse({"port": "80", "endPort": 0, "protocol": "tcp"}).rules[0].ports == (PortSpec(6, 80, 80),)


@pytest.mark.parametrize(
    "labels",
    [{"app": 1}, {"app": True}, {"app": None}, {"app": ["web"]}, {"app": "w" * 1_000_000}, {"a" * 1_000_000: "web"}],
    ids=lambda labels: str(labels)[:30],
)
def test_an_odd_label_is_refused_and_not_kept(labels: dict[Any, Any]) -> None:
    caches = (parse_selector._of_labels, parse_selector._is_key, parse_selector._is_value, parse_ports._plain_port)
    parse({"port": "80"}, {"app": "web"})
    sizes = [cache.cache_info().currsize for cache in caches]
    with pytest.raises(PolicyError):
        parse({"port": "80"}, labels)
    kept = [cache.cache_info().currsize for cache in caches]
    assert [after - before for before, after in zip(sizes, kept, strict=True)] in ([0, 0, 0, 0], [0, 1, 0, 0])
