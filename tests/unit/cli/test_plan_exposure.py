# SPDX-License-Identifier: Apache-2.0
"""How the store is exposed, and that changing it never cuts a peer without being told to."""

from __future__ import annotations

from typing import Any

import pytest

from clustermesh_cli.exit_code import CommandRefusedError
from clustermesh_cli.plan.exposure import Exposure, ExposureWish, decide_exposure


def service(type_: str, *node_ports: int) -> dict[str, Any]:
    ports = [{"port": 2379, "nodePort": port} for port in node_ports] or [{"port": 2379}]
    return {"spec": {"type": type_, "ports": ports}}


OLD = service("NodePort", 32379)


@pytest.mark.parametrize(
    ("there", "wish", "has_peers", "expected"),
    [
        (None, ExposureWish(), False, Exposure("NodePort", 32379)),
        (None, ExposureWish("LoadBalancer"), False, Exposure("LoadBalancer", None)),
        (service("NodePort", 31000), ExposureWish(), True, Exposure("NodePort", 31000)),
        (service("LoadBalancer", 30123), ExposureWish(), True, Exposure("LoadBalancer", 30123)),
        (OLD, ExposureWish(node_port=31000), False, Exposure("NodePort", 31000)),
        (OLD, ExposureWish(node_port=31000), True, Exposure("NodePort", 31000, (32379,))),
        (service("NodePort", 31000, 32379), ExposureWish(), True, Exposure("NodePort", 31000, (32379,))),
        (service("NodePort", 31000, 32379), ExposureWish(node_port=32379), True, Exposure("NodePort", 32379, (31000,))),
        (service("NodePort", 31000, 32379), ExposureWish(drops_previous=True), True, Exposure("NodePort", 31000)),
        (OLD, ExposureWish("LoadBalancer"), True, Exposure("LoadBalancer", 32379)),
        (OLD, ExposureWish("ClusterIP"), False, Exposure("ClusterIP", None)),
        (OLD, ExposureWish("ClusterIP", None, drops_previous=True), True, Exposure("ClusterIP", None)),
    ],
)
def test_what_is_not_asked_for_stays_and_so_does_what_peers_were_told(
    there: dict[str, Any] | None, wish: ExposureWish, has_peers: bool, expected: Exposure
) -> None:
    assert decide_exposure(there, wish, has_peers=has_peers) == expected


@pytest.mark.parametrize(
    ("there", "wish", "words"),
    [
        (None, ExposureWish("HostPort"), "choose one of NodePort, LoadBalancer, ClusterIP"),
        (None, ExposureWish(node_port=0), "0 is not in 1..65535"),
        (None, ExposureWish(node_port=99_999), "99999 is not in 1..65535"),
        (None, ExposureWish("ClusterIP", 32379), "ClusterIP has no node port"),
        (OLD, ExposureWish("ClusterIP"), "peers reach this cluster through a NodePort Service"),
        (service("LoadBalancer", 30123), ExposureWish("NodePort"), "through a LoadBalancer Service"),
    ],
)
def test_what_would_cut_peers_or_cannot_be_is_refused(
    there: dict[str, Any] | None, wish: ExposureWish, words: str
) -> None:
    with pytest.raises(CommandRefusedError, match=words):
        decide_exposure(there, wish, has_peers=True)


def test_the_first_port_is_the_one_that_peers_are_told_from_now_on() -> None:
    ports = Exposure("NodePort", 31000, (32379,)).ports()
    assert [(p["name"], p["port"], p["targetPort"], p["nodePort"]) for p in ports] == [
        ("etcd", 2379, 2379, 31000),
        ("etcd-32379", 32379, 2379, 32379),
    ]
