# SPDX-License-Identifier: Apache-2.0
"""Deployment: one ReplicaSet per template, and a rollout from the old ones to the present one."""

from __future__ import annotations

from typing import Final

from lab.devkube.api.cluster import Cluster
from lab.devkube.api.objects import Obj, copy_object, is_deleting, labels_of, name_of, namespace_of, part, uid_of
from lab.devkube.controllers.desired import condition, controller_uid, owner_reference, set_status, short_hash
from lab.devkube.controllers.events import EventRecorder
from lab.devkube.controllers.rollout import Generation, limits, plan_rollout

GROUP: Final = "apps"
HASH_LABEL: Final = "pod-template-hash"
REVISION: Final = "deployment.kubernetes.io/revision"


class Deployments:
    """Creates and scales ReplicaSets, and reports how the rollout goes."""

    name = "deployment"
    watches = frozenset({("apps", "deployments"), ("apps", "replicasets")})

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._events = cluster, EventRecorder(cluster, "deployment-controller")

    def reconcile(self) -> None:
        owned: dict[str, list[Obj]] = {}
        for found in self._cluster.list("replicasets", GROUP):
            owned.setdefault(controller_uid(found), []).append(found)
        for deployment in self._cluster.list("deployments", GROUP):
            if not is_deleting(deployment):
                self._reconcile_one(deployment, owned.get(uid_of(deployment), []))

    def _reconcile_one(self, deployment: Obj, sets: list[Obj]) -> None:
        if deployment["spec"].get("paused"):
            self._report(deployment, sets)
            return
        current, sets = self._current(deployment, sets)
        old = [found for found in sets if found is not current]
        at_most, ready_at_least = limits(deployment)
        plan = plan_rollout(
            int(deployment["spec"]["replicas"]),
            at_most,
            ready_at_least,
            _generation(current),
            [_generation(found) for found in old],
            recreate=deployment["spec"]["strategy"]["type"] == "Recreate",
        )
        sets = [self._scale(deployment, found, plan[name_of(found)]) for found in sets]
        self._report(deployment, sets)
        self._forget_history(deployment, [found for found in sets if name_of(found) != name_of(current)])

    def _current(self, deployment: Obj, sets: list[Obj]) -> tuple[Obj, list[Obj]]:
        template_hash = short_hash(deployment["spec"]["template"])
        newest = max((_revision(found) for found in sets), default=0)
        for index, found in enumerate(sets):
            if labels_of(found).get(HASH_LABEL) == template_hash:
                if _revision(found) < newest:
                    found["metadata"].setdefault("annotations", {})[REVISION] = str(newest + 1)
                    sets[index] = self._cluster.update("replicasets", found, GROUP)
                self._set_revision(deployment, _revision(sets[index]))
                return sets[index], sets
        created = self._cluster.create("replicasets", _replica_set(deployment, template_hash, newest + 1), GROUP)
        self._set_revision(deployment, newest + 1)
        return created, [*sets, created]

    def _set_revision(self, deployment: Obj, revision: int) -> None:
        annotations = deployment["metadata"].setdefault("annotations", {})
        if annotations.get(REVISION) != str(revision):
            annotations[REVISION] = str(revision)
            deployment |= self._cluster.update("deployments", deployment, GROUP)

    def _scale(self, deployment: Obj, found: Obj, replicas: int) -> Obj:
        before = int(found["spec"]["replicas"])
        if before == replicas:
            return found
        found["spec"]["replicas"] = replicas
        direction = "up" if replicas > before else "down"
        text = f"Scaled {direction} replica set {name_of(found)} to {replicas} from {before}"
        self._events.emit(deployment, "ScalingReplicaSet", text)
        return self._cluster.update("replicasets", found, GROUP)

    def _report(self, deployment: Obj, sets: list[Obj]) -> None:
        template_hash = short_hash(deployment["spec"]["template"])
        current = next((found for found in sets if labels_of(found).get(HASH_LABEL) == template_hash), None)
        wanted = int(deployment["spec"]["replicas"])
        total = sum(int(part(found, "status").get("replicas", 0)) for found in sets)
        ready = sum(int(part(found, "status").get("readyReplicas", 0)) for found in sets)
        updated = int(part(current, "status").get("replicas", 0)) if current else 0
        status = {
            "observedGeneration": deployment["metadata"].get("generation"),
            "replicas": total or None,
            "updatedReplicas": updated or None,
            "readyReplicas": ready or None,
            "availableReplicas": ready or None,
            "unavailableReplicas": max(0, wanted - ready) or None,
            "conditions": self._conditions(deployment, current, done=updated == ready == total == wanted, ready=ready),
        }
        set_status(self._cluster, "deployments", deployment, status, GROUP)

    def _conditions(self, deployment: Obj, current: Obj | None, *, done: bool, ready: int) -> list[Obj]:
        before, now_s = part(deployment, "status"), self._cluster.wall()
        available = ready >= limits(deployment)[1]
        text = "Deployment has minimum availability." if available else "Deployment does not have minimum availability."
        reason = "MinimumReplicasAvailable" if available else "MinimumReplicasUnavailable"
        name = name_of(current) if current else ""
        progress = ("NewReplicaSetAvailable", f'ReplicaSet "{name}" has successfully progressed.')
        if not done:
            progress = ("ReplicaSetUpdated", f'ReplicaSet "{name}" is progressing.')
        found = [
            condition(before, "Available", now_s, holds=available, reason=reason, message=text),
            condition(before, "Progressing", now_s, holds=True, reason=progress[0], message=progress[1]),
        ]
        return [entry | {"lastUpdateTime": entry["lastTransitionTime"]} for entry in found]

    def _forget_history(self, deployment: Obj, old: list[Obj]) -> None:
        idle = sorted(
            (f for f in old if not f["spec"]["replicas"] and not part(f, "status").get("replicas")), key=_revision
        )
        keep = int(deployment["spec"].get("revisionHistoryLimit", 10))
        for found in idle[: max(0, len(idle) - keep)]:
            self._cluster.delete("replicasets", name_of(found), namespace_of(found), GROUP)


def _revision(found: Obj) -> int:
    return int(part(found["metadata"], "annotations").get(REVISION, 0))


def _generation(found: Obj) -> Generation:
    ready = int(part(found, "status").get("readyReplicas", 0))
    return Generation(name_of(found), int(found["spec"]["replicas"]), ready)


def _replica_set(deployment: Obj, template_hash: str, revision: int) -> Obj:
    template = copy_object(deployment["spec"]["template"])
    labels = template.setdefault("metadata", {}).setdefault("labels", {})
    labels[HASH_LABEL] = template_hash
    selector = copy_object(deployment["spec"]["selector"])
    selector.setdefault("matchLabels", {})[HASH_LABEL] = template_hash
    meta = {
        "name": f"{name_of(deployment)}-{template_hash}",
        "namespace": namespace_of(deployment),
        "labels": dict(labels),
        "annotations": {REVISION: str(revision)},
        "ownerReferences": [owner_reference(deployment)],
    }
    return {"metadata": meta, "spec": {"replicas": 0, "selector": selector, "template": template}}
