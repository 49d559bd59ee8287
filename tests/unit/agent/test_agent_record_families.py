# SPDX-License-Identifier: Apache-2.0
"""Of which families an agent reads a peer's backends: in one record of both, and in slices of one family each."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.mesh.record_rows import Reader
from agent.wanted_backends import WantedBackends
from meshmodel.endpointslice import ClusterEndpointSlice, SliceEndpoint, SlicePort
from meshmodel.identity import identity_range
from meshmodel.names import ClusterId, ClusterName, ServiceName

PEER, PEER_ID = ClusterName("koornacht"), ClusterId(1)
RECORD = Path(__file__).parents[2] / "golden" / "wire" / "service-dual-stack.json"


def reader(*, is_dual: bool) -> Reader:
    return Reader(PEER, PEER_ID, identity_range(PEER_ID), ClusterName("tion"), WantedBackends(is_dual))


@pytest.mark.parametrize(
    ("is_dual", "places"),
    [(False, [("10.1.2.9", 9999, "SCTP")]), (True, [("10.1.2.9", 9999, "SCTP"), ("fd00:1::7", 8080, "TCP")])],
)
def test_a_record_of_both_families_gives_those_that_are_wanted(
    *, is_dual: bool, places: list[tuple[str, int, str]]
) -> None:
    piece = reader(is_dual=is_dual).service("tour/map", RECORD.read_bytes())
    assert [(b.address, b.port, b.protocol) for b in piece.backends] == places


@pytest.mark.parametrize(
    ("family", "address", "is_dual", "is_read"),
    [
        ("IPv4", "10.1.2.9", False, True),
        ("IPv4", "10.1.2.9", True, True),
        ("IPv6", "fd00:1::7", False, False),
        ("IPv6", "fd00:1::7", True, True),
    ],
)
def test_a_slice_is_read_where_its_family_is_wanted(*, family: str, address: str, is_dual: bool, is_read: bool) -> None:
    made = ClusterEndpointSlice(
        cluster=PEER,
        cluster_id=PEER_ID,
        namespace="tour",
        name="map-x",
        labels={"kubernetes.io/service-name": "map"},
        address_type=family,
        endpoints=(SliceEndpoint(addresses=(address,), ready=True),),
        ports=(SlicePort(name="http", port=8080, protocol="TCP"),),
    )
    piece = reader(is_dual=is_dual).endpoint_slice("tour/map-x", made.encode())
    assert piece.service == ServiceName("tour", "map")
    assert [b.address for b in piece.backends] == ([address] if is_read else [])
