# SPDX-License-Identifier: Apache-2.0
"""Jobs of the lab: as many pods succeed as asked for, each end counts once, and too many failures end it."""

from __future__ import annotations

from typing import Any

import pytest

from lab.devkube.api.cluster import Cluster
from lab.devkube.api.error import ApiError
from lab.devkube.api.objects import Obj, is_deleting, name_of
from lab.devkube.controllers.job import Jobs
from lab.devkube.controllers.replicaset import is_active
from lab.topology import KOORNACHT
from meshkit.clock import ManualClock


class World:
    """A cluster with the controller of Jobs; the test is its kubelet."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.cluster = Cluster(KOORNACHT.service_cidr, wall=self.clock.wall)
        self._jobs = Jobs(self.cluster)

    def settle(self) -> None:
        for _ in range(30):
            before = self.cluster.store.revision
            self._jobs.reconcile()
            if self.cluster.store.revision == before:
                return
        raise AssertionError("the controller never comes to rest")

    def job(self, policy: str = "Never", **spec: Any) -> None:
        template = {"spec": {"restartPolicy": policy, "containers": [{"name": "c", "image": "busybox"}]}}
        wanted: Obj = {"metadata": {"name": "work"}, "spec": {"template": template, **spec}}
        self.cluster.create("jobs", wanted, "batch")
        self.settle()

    def change(self, **spec: Any) -> None:
        found = self.cluster.get("jobs", "work", "default", "batch") or {}
        found["spec"] |= spec
        self.cluster.update("jobs", found, "batch")
        self.settle()

    def active(self) -> list[Obj]:
        return [pod for pod in self.cluster.list("pods") if is_active(pod)]

    def end_pod(self, phase: str) -> None:
        """The first active pod comes to its end."""
        pod = self.active()[0]
        pod["status"] |= {"phase": phase}
        self.cluster.update("pods", pod, subresource="status")
        self.settle()

    def later(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.settle()

    @property
    def status(self) -> Obj:
        found = self.cluster.get("jobs", "work", "default", "batch")
        assert found is not None
        return dict(found["status"])

    @property
    def outcome(self) -> list[tuple[str, str]]:
        return [(c["type"], c["reason"]) for c in self.status.get("conditions", []) if c["status"] == "True"]


@pytest.fixture
def world() -> World:
    return World()


def test_a_job_is_complete_once_its_pod_has_succeeded(world: World) -> None:
    world.job()
    (pod,) = world.active()
    assert pod["metadata"]["labels"]["job-name"] == "work"
    assert world.status["active"] == 1
    world.end_pod("Succeeded")
    assert world.outcome == [("SuccessCriteriaMet", "CompletionsReached"), ("Complete", "CompletionsReached")]
    assert (world.status["succeeded"], world.status.get("active")) == (1, None)
    assert not world.cluster.list("pods")[0]["metadata"].get("finalizers"), "its end is counted"


def test_an_end_counts_once_also_when_the_pod_is_removed_afterwards(world: World) -> None:
    world.job(completions=3)
    for done in (1, 2):
        world.end_pod("Succeeded")
        for pod in world.cluster.list("pods"):
            if not is_active(pod):
                world.cluster.delete("pods", name_of(pod), "default", grace_period_s=0)
        world.settle()
        assert world.status["succeeded"] == done
    world.end_pod("Succeeded")
    assert world.outcome[-1] == ("Complete", "CompletionsReached")


def test_never_more_pods_than_asked_for_run_side_by_side(world: World) -> None:
    world.job(completions=5, parallelism=2)
    for left in (5, 4, 3, 2, 1):
        assert len(world.active()) == min(2, left)
        world.end_pod("Succeeded")
    assert world.status["succeeded"] == 5
    assert world.active() == []


def test_failed_pods_are_replaced_later_and_later_until_the_limit(world: World) -> None:
    world.job(backoffLimit=2)
    for delay_s in (10, 20):
        world.end_pod("Failed")
        world.later(delay_s - 1)
        assert world.active() == []
        world.later(1)
        assert len(world.active()) == 1
    world.end_pod("Failed")
    assert world.outcome == [("FailureTarget", "BackoffLimitExceeded"), ("Failed", "BackoffLimitExceeded")]
    world.later(1000)
    assert world.active() == []
    assert world.status["failed"] == 3


def test_restarts_of_a_container_count_as_failures_where_it_is_restarted(world: World) -> None:
    world.job("OnFailure", backoffLimit=2)
    for restarts, is_over in ((1, False), (2, True)):
        pod = world.active()[0]
        pod["status"] |= {"containerStatuses": [{"name": "c", "restartCount": restarts}]}
        world.cluster.update("pods", pod, subresource="status")
        world.settle()
        assert bool(world.outcome) is is_over
    assert world.active() == [], "what still runs is ended"


def test_a_job_that_takes_too_long_is_ended(world: World) -> None:
    world.job(activeDeadlineSeconds=30)
    world.later(29)
    assert world.outcome == []
    world.later(1)
    assert world.outcome[-1] == ("Failed", "DeadlineExceeded")
    assert world.active() == []


def test_a_queue_of_work_ends_with_its_last_pod(world: World) -> None:
    world.job(parallelism=2, completions=None)
    world.end_pod("Succeeded")
    assert len(world.active()) == 1, "none is begun anew once one has found the end"
    assert world.outcome == []
    world.end_pod("Succeeded")
    assert world.outcome[-1] == ("Complete", "CompletionsReached")


def test_a_suspended_job_has_no_pods_until_it_goes_on(world: World) -> None:
    world.job(suspend=True)
    assert world.cluster.list("pods") == []
    assert world.outcome == [("Suspended", "JobSuspended")]
    world.change(suspend=False)
    assert world.outcome == []
    assert len(world.active()) == 1
    world.change(suspend=True)
    assert world.active() == []


def test_a_pod_that_is_deleted_by_hand_is_replaced_and_does_not_stay(world: World) -> None:
    world.job()
    first = name_of(world.active()[0])
    world.cluster.delete("pods", first, "default")
    world.settle()
    world.later(10)
    world.cluster.remove("pods", first, "default")
    world.settle()
    assert [name_of(pod) for pod in world.cluster.list("pods")] == [name_of(world.active()[0])]
    assert name_of(world.active()[0]) != first


@pytest.mark.parametrize("ended", [False, True])
def test_the_pods_of_a_deleted_job_go_with_it(world: World, ended: bool) -> None:
    world.job()
    if ended:
        world.end_pod("Succeeded")
    world.cluster.delete("jobs", "work", "default", "batch")
    world.settle()
    left = world.cluster.list("pods")
    assert all(is_deleting(pod) and not pod["metadata"].get("finalizers") for pod in left), "the kubelet ends them"


def test_a_finished_job_is_removed_after_its_time(world: World) -> None:
    world.job(ttlSecondsAfterFinished=600)
    world.end_pod("Succeeded")
    world.later(599)
    assert world.outcome
    world.later(1)
    assert world.cluster.get("jobs", "work", "default", "batch") is None


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"policy": "Always"}, "spec.template.spec.restartPolicy: Required value"),
        ({"completions": -1}, "spec.completions: Invalid value"),
        ({"selector": {"matchLabels": {"a": "b"}}}, "`selector` not auto-generated"),
    ],
)
def test_what_a_real_cluster_refuses_is_refused(world: World, spec: dict[str, Any], why: str) -> None:
    with pytest.raises(ApiError) as caught:
        world.job(**spec)
    assert why in caught.value.message


def test_the_pods_of_a_job_are_not_changed_afterwards(world: World) -> None:
    world.job()
    with pytest.raises(ApiError, match=r"spec.completions.*field is immutable"):
        world.change(completions=2)
    world.change(parallelism=0)
    assert world.active() == []
