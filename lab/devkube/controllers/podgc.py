# SPDX-License-Identifier: Apache-2.0
"""Pod garbage collection: a pod of a node that is gone has no kubelet left to end it."""

from __future__ import annotations

from lab.devkube.api.cluster import Cluster
from lab.devkube.api.objects import name_of, namespace_of


class PodGarbageCollector:
    """Removes pods bound to a node that does not exist, as kube-controller-manager does."""

    name = "pod garbage collector"
    watches = frozenset({("", "pods"), ("", "nodes")})

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def reconcile(self) -> None:
        nodes = {name_of(node) for node in self._cluster.list("nodes")}
        for pod in self._cluster.list("pods"):
            bound = pod["spec"].get("nodeName")
            if bound and bound not in nodes:
                self._cluster.remove("pods", name_of(pod), namespace_of(pod))
