# SPDX-License-Identifier: Apache-2.0
"""DaemonSet: one pod of the present template on every node that takes it."""

from __future__ import annotations

from typing import Final

from lab.devkube.api.cluster import Cluster
from lab.devkube.api.objects import Obj, copy_object, is_deleting, labels_of, name_of, namespace_of, part, uid_of
from lab.devkube.controllers.desired import is_true, set_status, short_hash
from lab.devkube.controllers.events import EventRecorder
from lab.devkube.controllers.replicaset import is_active, new_pod, pods_by_owner
from lab.devkube.controllers.rollout import absolute
from lab.devkube.controllers.selecting import obstacle

GROUP: Final = "apps"
HASH_LABEL: Final = "controller-revision-hash"
ALWAYS_TOLERATED: Final = (
    {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"},
    {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"},
    {"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"},
)


class DaemonSets:
    """Creates a pod per node, replaces outdated ones a few at a time, and counts."""

    name = "daemonset"
    watches = frozenset({("apps", "daemonsets"), ("", "pods"), ("", "nodes")})

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._events = cluster, EventRecorder(cluster, "daemonset-controller")

    def reconcile(self) -> None:
        owned = pods_by_owner(self._cluster)
        nodes = self._cluster.list("nodes")
        for found in self._cluster.list("daemonsets", GROUP):
            if not is_deleting(found):
                self._reconcile_one(found, owned.get(uid_of(found), []), nodes)

    def _reconcile_one(self, found: Obj, pods: list[Obj], nodes: list[Obj]) -> None:
        template = copy_object(found["spec"]["template"])
        template_hash = short_hash(template)
        template.setdefault("metadata", {}).setdefault("labels", {})[HASH_LABEL] = template_hash
        template["spec"]["tolerations"] = [*(template["spec"].get("tolerations") or []), *ALWAYS_TOLERATED]
        wanted = {name_of(node) for node in nodes if not obstacle(template["spec"], node)}
        by_node: dict[str, list[Obj]] = {}
        for pod in pods:
            by_node.setdefault(pod["spec"].get("nodeName", ""), []).append(pod)
        # pods of a node without an object are the pod garbage collector's
        for node in sorted(wanted | set(by_node) & {"", *map(name_of, nodes)}):
            here = by_node.get(node, [])
            if node in wanted and not here:
                self._create(found, template, node)
            for surplus in here if node not in wanted else []:
                self._delete(found, surplus)
        active = [pod for pod in pods if is_active(pod)]
        # a pod that has ended in spite of its restart policy gives way to a new one
        for pod in pods:
            if not is_active(pod) and not is_deleting(pod):
                self._delete(found, pod)
        self._replace_outdated(found, active, template_hash, len(wanted))
        self._count(found, active, wanted, template_hash)

    def _create(self, found: Obj, template: Obj, node: str) -> None:
        pod = new_pod(found, template)
        pod["spec"]["nodeName"] = node
        created = self._cluster.create("pods", pod)
        self._events.emit(found, "SuccessfulCreate", f"Created pod: {name_of(created)}")

    def _delete(self, found: Obj, pod: Obj) -> None:
        if not is_deleting(pod):
            self._cluster.delete("pods", name_of(pod), namespace_of(pod))
            self._events.emit(found, "SuccessfulDelete", f"Deleted pod: {name_of(pod)}")

    def _replace_outdated(self, found: Obj, active: list[Obj], template_hash: str, wanted: int) -> None:
        strategy = part(found["spec"], "updateStrategy")
        if strategy.get("type") == "OnDelete":
            return
        allowed = part(strategy, "rollingUpdate").get("maxUnavailable", 1)
        room = max(1, absolute(allowed, wanted, up=True)) - (wanted - sum(is_true(pod, "Ready") for pod in active))
        outdated = [pod for pod in active if labels_of(pod).get(HASH_LABEL) != template_hash]
        for pod in sorted(outdated, key=lambda pod: is_true(pod, "Ready")):
            if is_true(pod, "Ready"):
                if room <= 0:
                    return
                room -= 1
            self._delete(found, pod)

    def _count(self, found: Obj, active: list[Obj], wanted: set[str], template_hash: str) -> None:
        placed = [pod for pod in active if pod["spec"].get("nodeName") in wanted]
        ready = sum(is_true(pod, "Ready") for pod in placed)
        updated = sum(labels_of(pod).get(HASH_LABEL) == template_hash for pod in placed)
        status = {
            "currentNumberScheduled": len(placed),
            "desiredNumberScheduled": len(wanted),
            "numberMisscheduled": 0,
            "numberReady": ready,
            "numberAvailable": ready or None,
            "numberUnavailable": (len(wanted) - ready) or None,
            "updatedNumberScheduled": updated or None,
            "observedGeneration": found["metadata"].get("generation"),
        }
        set_status(self._cluster, "daemonsets", found, status, GROUP)
