# SPDX-License-Identifier: Apache-2.0
"""Which kinds of Kubernetes object are read: Cilium's, or pods and nodes. Asked again now and then, as Cilium may come."""

from __future__ import annotations

from dataclasses import dataclass

from clustermesh_apiserver.settings import ApiserverSettings, CiliumSlices, SourceChoice
from kube.client import KubeClient
from kube.resource import CILIUM_ENDPOINT_SLICES, CILIUM_NODES, Resource


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """`cilium`: addresses and nodes from Cilium's objects, of `cilium_slices` or of endpoints; else from pods and nodes."""

    cilium: bool
    cilium_slices: bool = False
    exports: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """Which of Cilium's objects exist."""

    nodes: bool
    endpoint_slices: bool


def look(client: KubeClient) -> Seen:
    """What exists now. Blocks.

    Raises: KubeError if the API server cannot be asked.
    """
    return Seen(_has_objects(client, CILIUM_NODES), _has_objects(client, CILIUM_ENDPOINT_SLICES))


def make_plan(settings: ApiserverSettings, seen: Seen, before: SourcePlan | None) -> SourcePlan:
    """What to read. Pure.

    `auto` reads Cilium's objects from the moment that Cilium has described a node, and never goes back: nodes that are
    gone for a moment must not withdraw every address. Slices are followed both ways: Cilium keeps endpoints beside them.
    """
    cilium = settings.source is SourceChoice.CILIUM
    if settings.source is SourceChoice.AUTO:
        cilium = seen.nodes or (before is not None and before.cilium)
    slices = settings.cilium_endpoint_slices is CiliumSlices.ON
    if settings.cilium_endpoint_slices is CiliumSlices.AUTO:
        slices = seen.endpoint_slices
    return SourcePlan(cilium=cilium, cilium_slices=cilium and slices, exports=settings.mcs_api)


def _has_objects(client: KubeClient, resource: Resource) -> bool:
    if not client.has(resource):
        return False
    return bool(next(client.pages(resource, limit=1))["items"])
