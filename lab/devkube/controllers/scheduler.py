# SPDX-License-Identifier: Apache-2.0
"""Scheduler: every pod gets the node that takes it and has the fewest of its kind."""

from __future__ import annotations

from collections import Counter
from typing import Final

from lab.devkube.api.cluster import Cluster
from lab.devkube.api.objects import Obj, is_deleting, name_of, namespace_of, part
from lab.devkube.controllers.desired import condition, controller_uid, is_true, set_status
from lab.devkube.controllers.events import WARNING, EventRecorder
from lab.devkube.controllers.replicaset import is_active
from lab.devkube.controllers.selecting import obstacle

DEFAULT_SCHEDULER: Final = "default-scheduler"


class Scheduler:
    """Sets `spec.nodeName`, or says in the pod's status why it cannot."""

    name = "scheduler"
    watches = frozenset({("", "pods"), ("", "nodes")})

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._events = cluster, EventRecorder(cluster, DEFAULT_SCHEDULER)

    def reconcile(self) -> None:
        pods = self._cluster.list("pods")
        waiting = [pod for pod in pods if not pod["spec"].get("nodeName") and not is_deleting(pod)]
        if not waiting:
            return
        nodes = self._cluster.list("nodes")
        placed = [pod for pod in pods if pod["spec"].get("nodeName") and is_active(pod)]
        for pod in waiting:
            if pod["spec"].get("schedulerName", DEFAULT_SCHEDULER) == DEFAULT_SCHEDULER:
                self._place(pod, nodes, placed)

    def _place(self, pod: Obj, nodes: list[Obj], placed: list[Obj]) -> None:
        obstacles = {name_of(node): _why_not(pod, node) for node in nodes}
        candidates = [name for name, why in obstacles.items() if not why]
        if not candidates:
            self._refuse(pod, obstacles)
            return
        siblings = Counter(p["spec"]["nodeName"] for p in placed if _family(p) == _family(pod))
        everyone = Counter(p["spec"]["nodeName"] for p in placed)
        chosen = min(candidates, key=lambda name: (siblings[name], everyone[name], name))
        pod["spec"]["nodeName"] = chosen
        placed.append(self._cluster.update("pods", pod))
        text = f"Successfully assigned {namespace_of(pod)}/{name_of(pod)} to {chosen}"
        self._events.emit(pod, "Scheduled", text)

    def _refuse(self, pod: Obj, obstacles: dict[str, str]) -> None:
        counted = Counter(obstacles.values())
        reasons = ", ".join(f"{count} {why}" for why, count in sorted(counted.items()))
        text = f"0/{len(obstacles)} nodes are available: {reasons}."
        status = dict(part(pod, "status"))
        before = [c for c in status.get("conditions") or [] if c["type"] == "PodScheduled"]
        if before and before[0].get("message") == text:
            return
        now_s = self._cluster.wall()
        status["conditions"] = [
            condition(part(pod, "status"), "PodScheduled", now_s, holds=False, reason="Unschedulable", message=text)
        ]
        set_status(self._cluster, "pods", pod, status)
        self._events.emit(pod, "FailedScheduling", text, WARNING)


def _why_not(pod: Obj, node: Obj) -> str:
    if node["spec"].get("unschedulable"):
        return "node(s) were unschedulable"
    if not is_true(node, "Ready"):
        return "node(s) were not ready"
    return obstacle(pod["spec"], node)


def _family(pod: Obj) -> str:
    """Pods of one workload are spread; a pod without a controller is a family of its own."""
    return controller_uid(pod) or name_of(pod)
