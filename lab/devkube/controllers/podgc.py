# SPDX-License-Identifier: Apache-2.0
"""Pod garbage collection: a pod of a node that is gone has no kubelet left to end it."""

from __future__ import annotations

from typing import Final

from lab.devkube.api.cluster import Cluster
from lab.devkube.api.objects import name_of, namespace_of

QUARANTINE_S: Final = 40.0


class PodGarbageCollector:
    """Removes pods bound to a node that has not existed for a while, as kube-controller-manager does.

    A kubelet may register its node again meanwhile, and its pods go on.
    """

    name = "pod garbage collector"
    watches = frozenset({("", "pods"), ("", "nodes"), ("coordination.k8s.io", "leases")})  # heartbeats: time passes

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._missing_since_s: dict[str, float] = {}

    def reconcile(self) -> None:
        nodes = {name_of(node) for node in self._cluster.list("nodes")}
        pods, now_s = self._cluster.list("pods"), self._cluster.wall()
        missing = {bound for pod in pods if (bound := pod["spec"].get("nodeName")) and bound not in nodes}
        self._missing_since_s = {name: self._missing_since_s.get(name, now_s) for name in missing}
        for pod in pods:
            since_s = self._missing_since_s.get(pod["spec"].get("nodeName", ""))
            if since_s is not None and now_s - since_s >= QUARANTINE_S:
                self._cluster.remove("pods", name_of(pod), namespace_of(pod))
