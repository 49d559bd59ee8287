# SPDX-License-Identifier: Apache-2.0
"""Controllers on a real store: what follows from what a user wrote, and that nothing is written twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lab.devkube.api.cluster import Cluster
from lab.devkube.api.objects import Obj, name_of, uid_of
from lab.devkube.controllers.balancer import LoadBalancers
from lab.devkube.controllers.daemonset import DaemonSets
from lab.devkube.controllers.deployment import Deployments
from lab.devkube.controllers.endpoints import Endpoints
from lab.devkube.controllers.nodes import register_node
from lab.devkube.controllers.podgc import QUARANTINE_S, PodGarbageCollector
from lab.devkube.controllers.replicaset import ReplicaSets
from lab.devkube.controllers.scheduler import Scheduler
from lab.topology import KOORNACHT, node_named
from meshkit.clock import ManualClock

Settle = Callable[[], None]


@pytest.fixture
def cluster() -> Cluster:
    found = Cluster(KOORNACHT.service_cidr)
    for node in KOORNACHT.nodes:
        register_node(found, node)
    return found


@pytest.fixture
def settle(cluster: Cluster) -> Settle:
    controllers = [
        Deployments(cluster),
        ReplicaSets(cluster),
        DaemonSets(cluster),
        Scheduler(cluster),
        PodGarbageCollector(cluster),
        Endpoints(cluster),
    ]

    def run() -> None:
        for _ in range(30):
            before = cluster.store.revision
            for controller in controllers:
                controller.reconcile()
            if cluster.store.revision == before:
                return
        raise AssertionError("the controllers never come to rest")

    return run


def template(name: str, image: str = "nginx") -> Obj:
    ports = [{"name": "web", "containerPort": 8080}]
    return {
        "metadata": {"labels": {"name": name}},
        "spec": {"containers": [{"name": "c", "image": image, "ports": ports}]},
    }


def deploy(cluster: Cluster, replicas: int = 2) -> Obj:
    spec = {"replicas": replicas, "selector": {"matchLabels": {"name": "web"}}, "template": template("web")}
    return cluster.create("deployments", {"metadata": {"name": "web"}, "spec": spec}, "apps")


def run_pods(cluster: Cluster, *, ready: bool = True) -> None:
    """What the kubelet does: bound pods run and are ready, those that end are gone."""
    for number, pod in enumerate(cluster.list("pods")):
        if "deletionTimestamp" in pod["metadata"]:
            cluster.remove("pods", name_of(pod), "default")
        elif pod["spec"].get("nodeName"):
            pod["status"] |= {"phase": "Running", "podIP": pod["status"].get("podIP") or f"10.1.1.{number + 2}"}
            pod["status"]["conditions"] = [{"type": "Ready", "status": str(ready)}]
            cluster.update("pods", pod, subresource="status")


def images(cluster: Cluster) -> list[str]:
    return sorted(pod["spec"]["containers"][0]["image"] for pod in cluster.list("pods"))


def test_replicas_are_spread_over_the_nodes_that_take_them(cluster: Cluster, settle: Settle) -> None:
    deploy(cluster)
    settle()
    nodes = sorted(pod["spec"]["nodeName"] for pod in cluster.list("pods"))
    assert nodes == ["koornacht-worker", "koornacht-worker2"]


def test_scaling_to_nothing_and_back_ends_with_as_many_pods_as_asked_for(cluster: Cluster, settle: Settle) -> None:
    deploy(cluster)
    for wanted in (0, 2, 5, 1):
        deployment = cluster.get("deployments", "web", "default", "apps")
        assert deployment is not None
        deployment["spec"]["replicas"] = wanted
        cluster.update("deployments", deployment, "apps")
        settle()
        run_pods(cluster)
        settle()
        run_pods(cluster)
        settle()
        assert len(cluster.list("pods")) == wanted
        status = (cluster.get("deployments", "web", "default", "apps") or {})["status"]
        assert status.get("readyReplicas", 0) == wanted
        assert (
            status["observedGeneration"]
            == (cluster.get("deployments", "web", "default", "apps") or {})["metadata"]["generation"]
        )


def test_a_new_image_replaces_every_pod_and_never_falls_below_the_promise(cluster: Cluster, settle: Settle) -> None:
    deployment = deploy(cluster, replicas=4)
    settle()
    run_pods(cluster)
    settle()
    deployment = cluster.get("deployments", "web", "default", "apps") or {}
    deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "curl"
    cluster.update("deployments", deployment, "apps")
    for _ in range(20):
        settle()
        alive = [p for p in cluster.list("pods") if "deletionTimestamp" not in p["metadata"]]
        ready = [p for p in alive if {"type": "Ready", "status": "True"} in p["status"].get("conditions", [])]
        assert len(ready) >= 3
        assert len(alive) <= 5
        run_pods(cluster)
    assert images(cluster) == ["curl"] * 4


def test_a_pod_that_fits_nowhere_says_why(cluster: Cluster, settle: Settle) -> None:
    pod = {"metadata": {"name": "p"}, "spec": {**template("p")["spec"], "nodeSelector": {"disk": "ssd"}}}
    cluster.create("pods", pod)
    settle()
    found = cluster.get("pods", "p", "default") or {}
    assert found["status"]["conditions"][0]["reason"] == "Unschedulable"
    assert found["status"]["conditions"][0]["message"].startswith("0/3 nodes are available")


def test_a_daemonset_has_one_pod_on_each_node_that_takes_it(cluster: Cluster, settle: Settle) -> None:
    for name, tolerations in (("all", [{"operator": "Exists"}]), ("workers", [])):
        body = template(name)
        body["spec"]["tolerations"] = tolerations
        spec = {"selector": {"matchLabels": {"name": name}}, "template": body}
        cluster.create("daemonsets", {"metadata": {"name": name}, "spec": spec}, "apps")
    settle()
    for name, count in (("all", 3), ("workers", 2)):
        pods = cluster.list("pods", label_selector=f"name={name}")
        assert len({pod["spec"]["nodeName"] for pod in pods}) == len(pods) == count
    cluster.delete("pods", name_of(cluster.list("pods", label_selector="name=workers")[0]), "default", grace_period_s=0)
    settle()
    assert len(cluster.list("pods", label_selector="name=workers")) == 2


def test_a_changed_daemonset_replaces_its_pods_one_at_a_time(cluster: Cluster, settle: Settle) -> None:
    spec = {"selector": {"matchLabels": {"name": "ds"}}, "template": template("ds")}
    cluster.create("daemonsets", {"metadata": {"name": "ds"}, "spec": spec}, "apps")
    settle()
    run_pods(cluster)
    settle()
    found = cluster.get("daemonsets", "ds", "default", "apps") or {}
    found["spec"]["template"]["spec"]["containers"][0]["image"] = "curl"
    cluster.update("daemonsets", found, "apps")
    settle()
    ending = [pod for pod in cluster.list("pods") if "deletionTimestamp" in pod["metadata"]]
    assert len(ending) == 1
    for _ in range(6):
        run_pods(cluster)
        settle()
    assert images(cluster) == ["curl", "curl"]


def test_slices_show_ready_pods_and_keep_ending_ones_as_serving(cluster: Cluster, settle: Settle) -> None:
    service = {
        "metadata": {"name": "web"},
        "spec": {"selector": {"name": "web"}, "ports": [{"port": 80, "targetPort": "web"}]},
    }
    cluster.create("services", service)
    deploy(cluster)
    settle()
    run_pods(cluster)
    settle()
    cluster.delete("pods", name_of(cluster.list("pods")[0]), "default")
    settle()
    found = cluster.list("endpointslices", "discovery.k8s.io", "default", "kubernetes.io/service-name=web")
    assert [slice_["ports"] for slice_ in found] == [[{"name": "", "port": 8080, "protocol": "TCP"}]]
    conditions = [tuple(e["conditions"][k] for k in ("ready", "serving", "terminating")) for e in found[0]["endpoints"]]
    assert sorted(conditions) == [(False, True, True), (True, True, False)]
    ready = [e for e in found[0]["endpoints"] if e["conditions"]["ready"]]
    endpoints = cluster.get("endpoints", "web", "default") or {}
    assert [a["ip"] for s in endpoints["subsets"] for a in s["addresses"]] == [ready[0]["addresses"][0]]


def test_pods_that_are_not_ready_receive_nothing(cluster: Cluster, settle: Settle) -> None:
    cluster.create(
        "services", {"metadata": {"name": "web"}, "spec": {"selector": {"name": "web"}, "ports": [{"port": 80}]}}
    )
    deploy(cluster)
    settle()
    run_pods(cluster, ready=False)
    settle()
    found = cluster.list("endpointslices", "discovery.k8s.io", "default", "kubernetes.io/service-name=web")
    assert [e["conditions"]["ready"] for e in found[0]["endpoints"]] == [False, False]


def test_more_than_a_hundred_pods_are_spread_over_slices_and_shrink_again(cluster: Cluster, settle: Settle) -> None:
    cluster.create(
        "services", {"metadata": {"name": "web"}, "spec": {"selector": {"name": "web"}, "ports": [{"port": 80}]}}
    )
    deploy(cluster, replicas=130)
    settle()
    run_pods(cluster)
    settle()

    def sizes() -> list[int]:
        found = cluster.list("endpointslices", "discovery.k8s.io", "default", "kubernetes.io/service-name=web")
        return sorted(len(slice_["endpoints"]) for slice_ in found)

    assert sizes() == [30, 100]
    deployment = cluster.get("deployments", "web", "default", "apps") or {}
    deployment["spec"]["replicas"] = 3
    cluster.update("deployments", deployment, "apps")
    settle()
    run_pods(cluster)
    settle()
    assert sizes() == [3]


def test_a_pod_of_a_node_that_stays_gone_is_removed_and_replaced(cluster: Cluster, settle: Settle) -> None:
    """And one whose node is registered again in time stays, a daemon set's too."""
    clock = ManualClock()
    cluster.wall = clock.wall
    deploy(cluster, replicas=2)
    spec = {"selector": {"matchLabels": {"name": "agent"}}, "template": template("agent")}
    cluster.create("daemonsets", {"metadata": {"name": "agent"}, "spec": spec}, "apps")
    settle()
    before = sorted(uid_of(pod) for pod in cluster.list("pods"))
    lost = cluster.list("pods")[0]["spec"]["nodeName"]
    cluster.remove("nodes", lost)
    settle()
    clock.advance(QUARANTINE_S - 1)
    settle()
    register_node(cluster, node_named(lost))
    settle()
    assert sorted(uid_of(pod) for pod in cluster.list("pods")) == before
    cluster.remove("nodes", lost)
    settle()
    clock.advance(QUARANTINE_S)
    settle()
    pods = cluster.list("pods")
    assert sorted(pod["metadata"]["labels"]["name"] for pod in pods) == ["agent", "web", "web"]
    assert lost not in {pod["spec"]["nodeName"] for pod in pods}
    assert not [pod for pod in pods if "deletionTimestamp" in pod["metadata"]]


def test_balancers_give_each_service_an_address_and_take_it_back() -> None:
    cluster = Cluster("172.20.1.0/24")
    controller = LoadBalancers(cluster, ("172.19.1.1", "172.19.1.2"))
    for name, more in (
        ("a", {}),
        ("b", {"loadBalancerIP": "172.19.1.1"}),
        ("c", {}),
        ("d", {"loadBalancerClass": "x"}),
    ):
        spec = {"type": "LoadBalancer", "ports": [{"port": 80}], **more}
        cluster.create("services", {"metadata": {"namespace": "default", "name": name}, "spec": spec})
    controller.reconcile()
    assert sorted(given(cluster).values()) == ["", "", "172.19.1.1", "172.19.1.2"], "two addresses, four services"
    assert given(cluster)["d"] == "", "somebody else's class"
    before = given(cluster)
    controller.reconcile()
    assert given(cluster) == before
    holder = next(name for name, address in before.items() if address)
    left = next(name for name in ("a", "b", "c") if not before[name])
    changed = cluster.get("services", holder, "default")
    assert changed is not None
    changed["spec"]["type"] = "ClusterIP"
    cluster.update("services", changed)
    controller.reconcile()
    assert given(cluster)[holder] == ""
    assert given(cluster)[left] == before[holder]


def given(cluster: Cluster) -> dict[str, str]:
    found = {}
    for service in cluster.list("services", namespace="default"):
        ingress = service.get("status", {}).get("loadBalancer", {}).get("ingress") or [{}]
        found[service["metadata"]["name"]] = ingress[0].get("ip", "")
    return {name: address for name, address in found.items() if name != "kubernetes"}
