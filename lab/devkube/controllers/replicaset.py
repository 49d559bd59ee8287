# SPDX-License-Identifier: Apache-2.0
"""ReplicaSet: as many pods of one template as asked for."""

from __future__ import annotations

from typing import Final

from lab.devkube.api.cluster import Cluster
from lab.devkube.api.objects import Obj, copy_object, is_deleting, name_of, namespace_of, part, uid_of
from lab.devkube.controllers.desired import controller_uid, is_true, owner_reference, set_status
from lab.devkube.controllers.events import EventRecorder

KIND: Final = ("replicasets", "apps")


def is_active(pod: Obj) -> bool:
    return not is_deleting(pod) and part(pod, "status").get("phase") not in ("Succeeded", "Failed")


def pods_by_owner(cluster: Cluster) -> dict[str, list[Obj]]:
    """All pods by the uid of their controller."""
    found: dict[str, list[Obj]] = {}
    for pod in cluster.store.objects(("", "pods")).values():
        found.setdefault(controller_uid(pod), []).append(pod)
    return found


def new_pod(owner: Obj, template: Obj) -> Obj:
    """A pod of the template, named after its owner and owned by it."""
    meta = copy_object(part(template, "metadata"))
    meta |= {"namespace": namespace_of(owner), "generateName": f"{name_of(owner)}-"}
    meta["ownerReferences"] = [owner_reference(owner)]
    meta.pop("name", None)
    return {"metadata": meta, "spec": copy_object(template["spec"])}


class ReplicaSets:
    """Creates and deletes pods, and counts them."""

    name = "replicaset"
    watches = frozenset({("apps", "replicasets"), ("", "pods")})

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._events = cluster, EventRecorder(cluster, "replicaset-controller")

    def reconcile(self) -> None:
        owned = pods_by_owner(self._cluster)
        for found in self._cluster.list(*KIND):
            if not is_deleting(found):
                active = [pod for pod in owned.get(uid_of(found), []) if is_active(pod)]
                self._scale(found, active)
                self._count(found, active)

    def _scale(self, found: Obj, active: list[Obj]) -> None:
        wanted = int(found["spec"]["replicas"])
        for _ in range(wanted - len(active)):
            pod = self._cluster.create("pods", new_pod(found, found["spec"]["template"]))
            self._events.emit(found, "SuccessfulCreate", f"Created pod: {name_of(pod)}")
            active.append(pod)
        # those that serve least go first; among equals the youngest
        order = sorted(active, key=lambda pod: pod["metadata"]["creationTimestamp"], reverse=True)
        order.sort(key=lambda pod: (bool(pod["spec"].get("nodeName")), is_true(pod, "Ready")))
        for pod in order[: max(0, len(active) - wanted)]:
            self._cluster.delete("pods", name_of(pod), namespace_of(pod))
            self._events.emit(found, "SuccessfulDelete", f"Deleted pod: {name_of(pod)}")
            active.remove(pod)

    def _count(self, found: Obj, active: list[Obj]) -> None:
        ready = sum(is_true(pod, "Ready") for pod in active)
        status = {
            "replicas": len(active),
            "fullyLabeledReplicas": len(active),
            "readyReplicas": ready,
            "availableReplicas": ready,
            "observedGeneration": found["metadata"].get("generation"),
        }
        zero_means_absent = ("fullyLabeledReplicas", "readyReplicas", "availableReplicas")
        shown = {key: value for key, value in status.items() if value or key not in zero_means_absent}
        set_status(self._cluster, KIND[0], found, shown, KIND[1])
