# SPDX-License-Identifier: Apache-2.0
"""Which kinds of Kubernetes object are read: Cilium's, or pods and nodes."""

from __future__ import annotations

from dataclasses import dataclass

from clustermesh_apiserver.settings import Settings, SourceChoice
from kube.client import KubeClient
from kube.resource import CILIUM_ENDPOINT_SLICES, CILIUM_NODES, Resource


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """Which kinds are read. `cilium` from Cilium's objects, else from pods and nodes."""

    cilium: bool
    cilium_slices: bool = False
    exports: bool = False


def source_plan(settings: Settings, client: KubeClient) -> SourcePlan:
    """From what to read. Blocks; a cluster runs Cilium if Cilium has described a node of it.

    Raises: KubeError if the API server cannot be asked.
    """
    cilium = settings.source is SourceChoice.CILIUM
    if settings.source is SourceChoice.AUTO:
        cilium = _has_objects(client, CILIUM_NODES)
    slices = cilium and _has_objects(client, CILIUM_ENDPOINT_SLICES)
    return SourcePlan(cilium=cilium, cilium_slices=slices, exports=settings.mcs_api)


def _has_objects(client: KubeClient, resource: Resource) -> bool:
    if not client.has(resource):
        return False
    return bool(next(client.pages(resource, limit=1))["items"])
