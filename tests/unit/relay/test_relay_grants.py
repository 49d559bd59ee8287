# SPDX-License-Identifier: Apache-2.0
"""Which flows a peer's relay gets."""

from __future__ import annotations

import pytest

from flows.errors import RequestError
from flows.proto import flow_pb2 as pb
from flows.proto import observer_pb2 as observer
from flows.selection import FlowSelection
from relay.grants import may_see, narrowed

SHARED = {"shop"}


def _flow(source: tuple[str, str], destination: tuple[str, str]) -> pb.Flow:
    ends = [pb.Endpoint(cluster_name=cluster, namespace=namespace) for cluster, namespace in (source, destination)]
    return pb.Flow(source=ends[0], destination=ends[1])


@pytest.mark.parametrize(
    ("source", "destination", "is_told"),
    [
        (("south", "a"), ("north", "shop"), True),
        (("north", "shop"), ("south", "a"), True),
        (("south", "a"), ("north", ""), True),
        (("south", "a"), ("south", "b"), True),
        (("south", "a"), ("north", "secret"), False),
        (("north", "secret"), ("south", "a"), False),
        (("north", "shop"), ("north", "shop"), False),
        (("north", "shop"), ("east", "a"), False),
        (("south", "a"), ("east", "a"), False),
        (("south", "a"), ("", ""), False),
        (("", ""), ("north", "shop"), False),
        (("", "south"), ("", "shop"), False),
    ],
)
def test_a_peer_is_told_flows_of_its_own_with_shared_namespaces(
    source: tuple[str, str], destination: tuple[str, str], is_told: bool
) -> None:
    assert may_see(_flow(source, destination), "south", "north", SHARED.__contains__) is is_told


@pytest.mark.parametrize(
    ("asked", "passes"),
    [
        (pb.FlowFilter(), ["in", "out"]),
        (pb.FlowFilter(source_cluster_name=["south"]), ["in"]),
        (pb.FlowFilter(source_cluster_name=["north"]), ["out"]),
        (pb.FlowFilter(source_cluster_name=["north"], destination_cluster_name=["north", "south"]), ["out"]),
        (pb.FlowFilter(verdict=[pb.DROPPED]), []),
    ],
)
def test_a_narrowed_request_selects_what_was_asked_for_of_the_peers(asked: pb.FlowFilter, passes: list[str]) -> None:
    """The number that a request asks for counts flows that the peer may see, as observers are asked for these only."""
    flows = {
        "in": _flow(("south", "a"), ("north", "shop")),
        "out": _flow(("north", "shop"), ("south", "a")),
        "inside": _flow(("north", "shop"), ("north", "shop")),
    }
    request = narrowed(observer.GetFlowsRequest(whitelist=[asked], number=3), "south")
    selection = FlowSelection(request.whitelist, request.blacklist)
    assert [name for name, flow in flows.items() if selection.passes(flow)] == passes
    assert request.number == 3


def test_filters_of_other_clusters_only_are_refused_and_a_mask_decides_nothing() -> None:
    inside = pb.FlowFilter(source_cluster_name=["north"], destination_cluster_name=["north"])
    with pytest.raises(RequestError, match="none of these filters lets one of south pass"):
        narrowed(observer.GetFlowsRequest(whitelist=[inside]), "south")
    masked = observer.GetFlowsRequest(field_mask={"paths": ["verdict"]})
    assert not narrowed(masked, "south").field_mask.paths
