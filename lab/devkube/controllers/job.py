# SPDX-License-Identifier: Apache-2.0
"""Job: pods of one template until as many as asked for have succeeded, or too many have failed.

A pod that ended is counted once: it carries a finalizer until its end is in the Job's status, so that neither the pod's
deletion nor a second look changes the count. Not here: indexed completion, pod failure and success policies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lab.devkube.api.cluster import Cluster
from lab.devkube.api.objects import (
    Obj,
    copy_object,
    is_deleting,
    items_of,
    name_of,
    namespace_of,
    parse_timestamp,
    part,
    timestamp,
    uid_of,
)
from lab.devkube.controllers.desired import condition, controller_uid, is_true, set_status
from lab.devkube.controllers.events import NORMAL, WARNING, EventRecorder
from lab.devkube.controllers.replicaset import is_active, new_pod, pods_by_owner

KIND: Final = ("jobs", "batch")
TRACKING: Final = "batch.kubernetes.io/job-tracking"
FIRST_DELAY_S: Final = 10.0
LONGEST_DELAY_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a Job ends. `kind` is the type of its last condition."""

    kind: str
    reason: str
    message: str


COMPLETE: Final = JobEnd("Complete", "CompletionsReached", "Reached expected number of succeeded pods")
TOO_MANY_FAILURES: Final = JobEnd("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
TOO_LATE: Final = JobEnd("Failed", "DeadlineExceeded", "Job was active longer than specified deadline")


class Jobs:
    """Creates, counts and ends the pods of Jobs, and removes Jobs whose time after their end is over."""

    name = "job"
    watches = frozenset({("batch", "jobs"), ("", "pods"), ("coordination.k8s.io", "leases")})  # heartbeats: time passes

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._events = cluster, EventRecorder(cluster, "job-controller")
        self._failed_s: dict[str, float] = {}

    def reconcile(self) -> None:
        owned = pods_by_owner(self._cluster)
        jobs = {uid_of(job): job for job in self._cluster.list(*KIND)}
        self._failed_s = {uid: at_s for uid, at_s in self._failed_s.items() if uid in jobs}
        for uid, job in jobs.items():
            if not is_deleting(job):
                self._advance(job, owned.get(uid, []))
        for pod in self._cluster.list("pods"):
            if TRACKING in _finalizers(pod) and controller_uid(pod) not in jobs:
                self._let_go(pod)

    def _advance(self, job: Obj, pods: Sequence[Obj]) -> None:
        now_s = self._cluster.wall()
        if is_finished(job):
            for pod in pods:
                self._let_go(pod)
            self._expire(job, now_s)
            return
        ended = [pod for pod in pods if TRACKING in _finalizers(pod) and not is_active(pod)]
        status = self._counted(job, ended, now_s)
        active = [pod for pod in pods if is_active(pod)]
        end = judge(job, status, active, now_s)
        if end or job["spec"].get("suspend"):
            self._delete(job, active)
            active = []
        else:
            active = self._scale(job, status, active, now_s)
        self._tell(job, status, active, end, now_s)
        for pod in ended:
            self._let_go(pod)

    def _counted(self, job: Obj, ended: Sequence[Obj], now_s: float) -> Obj:
        """The status with what has ended since it was written."""
        status = copy_object(part(job, "status"))
        for pod in ended:
            has_succeeded = part(pod, "status").get("phase") == "Succeeded"
            field = "succeeded" if has_succeeded else "failed"
            status[field] = int(status.get(field) or 0) + 1
            if not has_succeeded:
                self._failed_s[uid_of(job)] = now_s
        return status

    def _scale(self, job: Obj, status: Obj, active: list[Obj], now_s: float) -> list[Obj]:
        wanted = wanted_pods(job, status, active)
        if len(active) > wanted:
            surplus = sorted(active, key=lambda pod: is_true(pod, "Ready"))[: len(active) - wanted]
            self._delete(job, surplus)
            return [pod for pod in active if pod not in surplus]
        if now_s < self._may_start_s(job, status):
            return active
        made = [self._create(job) for _ in range(wanted - len(active))]
        return [*active, *made]

    def _may_start_s(self, job: Obj, status: Obj) -> float:
        failures = int(status.get("failed") or 0)
        delay_s = min(FIRST_DELAY_S * 2.0 ** min(failures - 1, 10), LONGEST_DELAY_S) if failures else 0.0
        return self._failed_s.get(uid_of(job), 0.0) + delay_s

    def _create(self, job: Obj) -> Obj:
        pod = new_pod(job, job["spec"]["template"])
        pod["metadata"]["finalizers"] = [TRACKING]
        made = self._cluster.create("pods", pod)
        self._events.emit(job, "SuccessfulCreate", f"Created pod: {name_of(made)}")
        return made

    def _delete(self, job: Obj, pods: Sequence[Obj]) -> None:
        for pod in pods:
            self._cluster.delete("pods", name_of(pod), namespace_of(pod))
            self._events.emit(job, "SuccessfulDelete", f"Deleted pod: {name_of(pod)}")

    def _let_go(self, pod: Obj) -> None:
        """The pod's end is counted, or nobody counts it any more."""
        current = self._cluster.get("pods", name_of(pod), namespace_of(pod))
        if current is not None and uid_of(current) == uid_of(pod) and TRACKING in _finalizers(current):
            current["metadata"]["finalizers"] = [each for each in _finalizers(current) if each != TRACKING]
            self._cluster.update("pods", current)

    def _tell(self, job: Obj, status: Obj, active: Sequence[Obj], end: JobEnd | None, now_s: float) -> None:
        is_suspended = bool(job["spec"].get("suspend"))
        status["active"] = len(active) or None
        status["ready"] = sum(is_true(pod, "Ready") for pod in active)
        if not is_suspended:
            status.setdefault("startTime", timestamp(now_s))
        conditions = [c for c in items_of(status, "conditions") if c.get("type") != "Suspended"]
        if is_suspended or len(conditions) != len(items_of(status, "conditions")):
            why = {"reason": "JobSuspended" if is_suspended else "JobResumed"}
            conditions.append(condition(status, "Suspended", now_s, holds=is_suspended, **why))
        if end:
            first = "SuccessCriteriaMet" if end is COMPLETE else "FailureTarget"
            why = {"reason": end.reason, "message": end.message}
            conditions += [condition(status, kind, now_s, holds=True, **why) for kind in (first, end.kind)]
            if end is COMPLETE:
                status["completionTime"] = timestamp(now_s)
        status["conditions"] = conditions
        set_status(self._cluster, KIND[0], job, status, KIND[1])
        if end is COMPLETE:
            self._events.emit(job, "Completed", "Job completed", NORMAL)
        elif end:
            self._events.emit(job, end.reason, end.message, WARNING)

    def _expire(self, job: Obj, now_s: float) -> None:
        keep_s = job["spec"].get("ttlSecondsAfterFinished")
        if keep_s is not None and now_s >= finished_s(job) + float(keep_s):
            self._cluster.delete(KIND[0], name_of(job), namespace_of(job), KIND[1])


def is_finished(job: Obj) -> bool:
    return is_true(job, "Complete") or is_true(job, "Failed")


def finished_s(job: Obj) -> float:
    """When a finished Job came to its end, in seconds."""
    conditions = items_of(part(job, "status"), "conditions")
    return max(parse_timestamp(c["lastTransitionTime"]) for c in conditions if c.get("type") in ("Complete", "Failed"))


def wanted_pods(job: Obj, status: Obj, active: Sequence[Obj]) -> int:
    """How many pods shall be active now."""
    spec = job["spec"]
    succeeded, parallelism = int(status.get("succeeded") or 0), int(spec["parallelism"])
    if spec.get("completions") is None:  # a queue of work: none is begun anew once one has found its end
        return min(parallelism, len(active)) if succeeded else parallelism
    return max(0, min(parallelism, int(spec["completions"]) - succeeded))


def judge(job: Obj, status: Obj, active: Sequence[Obj], now_s: float) -> JobEnd | None:
    """How the Job ends now; None while it goes on."""
    spec = job["spec"]
    succeeded, failed, limit = (
        int(status.get("succeeded") or 0),
        int(status.get("failed") or 0),
        int(spec["backoffLimit"]),
    )
    restarts = sum(
        int(each.get("restartCount") or 0)
        for pod in active
        for each in items_of(part(pod, "status"), "containerStatuses")
    )
    is_restarting = spec["template"]["spec"].get("restartPolicy") == "OnFailure"
    if failed > limit or (is_restarting and restarts and restarts >= limit):
        return TOO_MANY_FAILURES
    deadline_s, began = spec.get("activeDeadlineSeconds"), status.get("startTime")
    if (
        deadline_s is not None
        and began
        and not spec.get("suspend")
        and now_s >= parse_timestamp(began) + float(deadline_s)
    ):
        return TOO_LATE
    wanted = spec.get("completions")
    is_done = succeeded > 0 and not active if wanted is None else succeeded >= int(wanted)
    return COMPLETE if is_done else None


def _finalizers(pod: Obj) -> list[str]:
    return list(pod["metadata"].get("finalizers") or ())
