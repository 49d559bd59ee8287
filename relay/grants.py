# SPDX-License-Identifier: Apache-2.0
"""Which of our flows a peer's relay gets. Pure.

A peer that was granted flows gets those in which its own cluster takes part: one side is an endpoint of the peer's. The other
side is of this cluster, and in a namespace that takes part in the mesh, or in none (a node). Everything else is withheld: flows
inside this cluster, with third clusters, with the world, and those of namespaces that are kept out of the mesh.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from flows.errors import RequestError
from flows.proto import flow_pb2 as pb
from flows.proto import observer_pb2 as observer

IsShared = Callable[[str], bool]
"""Whether a namespace of this cluster takes part in the mesh."""


def may_see(flow: pb.Flow, peer: str, own: str, is_shared: IsShared) -> bool:
    """Whether this flow may be told to the peer."""
    ends = (flow.source, flow.destination)
    theirs = [end for end in ends if end.cluster_name == peer]
    others = [end for end in ends if end.cluster_name != peer]
    return bool(theirs) and all(end.cluster_name == own and _is_open(end, is_shared) for end in others)


def narrowed(request: observer.GetFlowsRequest, peer: str) -> observer.GetFlowsRequest:
    """The request, asking only for flows with a side in the peer: `number` counts these. Raises: RequestError."""
    found = observer.GetFlowsRequest()
    found.CopyFrom(request)
    del found.whitelist[:]
    for wanted in request.whitelist or [pb.FlowFilter()]:
        found.whitelist.extend(_sides(wanted, peer))
    if not found.whitelist:
        raise RequestError(
            f"a peer is told flows of its own cluster only, and none of these filters lets one of {peer} pass"
        )
    if found.field_mask.paths:  # who may see a flow is decided by what the mask may leave out
        found.ClearField("field_mask")
    return found


def _sides(wanted: pb.FlowFilter, peer: str) -> Iterable[pb.FlowFilter]:
    for side in ("source_cluster_name", "destination_cluster_name"):
        named = list(getattr(wanted, side))
        if named and peer not in named:
            continue
        found = pb.FlowFilter()
        found.CopyFrom(wanted)
        found.ClearField(side)
        getattr(found, side).append(peer)
        yield found


def _is_open(end: pb.Endpoint, is_shared: IsShared) -> bool:
    return not end.namespace or is_shared(end.namespace)
