# SPDX-License-Identifier: Apache-2.0
"""Orderly users: Services that are shared or not, pods that come, go and change, namespaces that leave the mesh."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from tests.simulation.actors.plan import NAMESPACES, PODS, SERVICES, TENANT, Plan
from tests.simulation.cluster import SERVICE_PREFIX
from tests.simulation.steps import Step, step

PORTS: Final = {"web": 8080, "db": 9090}
"""What pods of an application call http."""


def service_manifest(cluster_number: int, namespace: str, name: str, annotations: dict[str, str]) -> dict[str, Any]:
    host = 10 + 10 * NAMESPACES.index(namespace) + (*SERVICES, TENANT).index(name)
    address = f"{SERVICE_PREFIX}{cluster_number}.0.{host}"
    spec = {
        "type": "ClusterIP",
        "clusterIP": address,
        "clusterIPs": [address],
        "selector": {"app": name},
        "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
    }
    meta: dict[str, Any] = {"name": name, "namespace": namespace}
    return {"metadata": meta | ({"annotations": annotations} if annotations else {}), "spec": spec}


def put_service(plan: Plan) -> Iterator[Step]:
    """In one cluster, or the same in all."""
    namespace, name = plan.service()
    annotations = {"service.cilium.io/global": "true"} if plan.rng.random() < 0.8 else {}
    if plan.rng.random() < 0.3:
        annotations["service.cilium.io/affinity"] = plan.rng.choice(("local", "remote", "none"))
    if plan.rng.random() < 0.15:
        annotations["service.cilium.io/shared"] = "false"
    chosen = plan.clusters if plan.rng.random() < 0.5 else (plan.cluster(),)
    for cluster in chosen:
        number = plan.clusters.index(cluster) + 1
        yield step("put", cluster, "service", service_manifest(number, namespace, name, annotations))


def prefer_side(plan: Plan) -> Iterator[Step]:
    """The application's Service prefers one side in every cluster, for as long as the history goes on."""
    namespace, name = plan.focus
    annotations = {
        "service.cilium.io/global": "true",
        "service.cilium.io/affinity": plan.rng.choice(("local", "remote")),
    }
    for number, cluster in enumerate(plan.clusters, 1):
        yield step("put", cluster, "service", service_manifest(number, namespace, name, annotations))


def open_shop(plan: Plan) -> Iterator[Step]:
    """The application that the history is about runs in every cluster, and its Service is shared."""
    namespace, name = plan.focus
    for number, cluster in enumerate(plan.clusters, 1):
        annotations = {"service.cilium.io/global": "true"}
        yield step("put", cluster, "service", service_manifest(number, namespace, name, annotations))
        yield step("pod", cluster, plan.node(cluster), pod_manifest(namespace, f"{name}-1"))


def delete_service(plan: Plan) -> Iterator[Step]:
    namespace, name = plan.service()
    yield step("del", plan.cluster(), "service", f"{namespace}/{name}")


def pod_manifest(namespace: str, name: str, *, is_ready: bool = True, **labels: str) -> dict[str, Any]:
    meta = {"name": name, "namespace": namespace, "labels": {"app": name.partition("-")[0], **labels}}
    port = {"name": "http", "containerPort": PORTS[meta["labels"]["app"]], "protocol": "TCP"}
    spec = {"serviceAccountName": "default", "containers": [{"name": "main", "ports": [port]}]}
    return {"metadata": meta, "spec": spec, "status": {"ready": is_ready}}


def put_pod(plan: Plan) -> Iterator[Step]:
    namespace, name = plan.pod()
    cluster = plan.cluster()
    labels = {"tier": plan.rng.choice("ab")} if plan.rng.random() < 0.3 else {}
    manifest = pod_manifest(namespace, name, is_ready=plan.rng.random() < 0.85, **labels)
    yield step("pod", cluster, plan.node(cluster), manifest)


def end_pod(plan: Plan) -> Iterator[Step]:
    namespace, name = plan.pod()
    yield step("nopod", plan.cluster(), f"{namespace}/{name}")


def roll_out(plan: Plan) -> Iterator[Step]:
    """Every pod of one application is replaced, one after the other."""
    namespace, app = plan.service()
    cluster = plan.cluster()
    for name in PODS:
        if name.startswith(app):
            yield step("nopod", cluster, f"{namespace}/{name}")
            yield step("pod", cluster, plan.node(cluster), pod_manifest(namespace, name))


def change_namespace(plan: Plan) -> Iterator[Step]:
    """Out of the mesh and back, or other labels."""
    cluster, name = plan.cluster(), plan.rng.choice(NAMESPACES)
    meta: dict[str, Any] = {"name": name, "labels": {"kubernetes.io/metadata.name": name}}
    kind = plan.rng.random()
    if kind < 0.4:
        meta["annotations"] = {"clustermesh.cilium.io/global": plan.rng.choice(("false", "true"))}
    elif kind < 0.6:
        meta["labels"]["team"] = plan.rng.choice("ab")
    yield step("put", cluster, "namespace", {"metadata": meta})


def replace_namespace(plan: Plan) -> Iterator[Step]:
    """A namespace ends with all that is in it, and may be made again."""
    cluster, name = plan.cluster(), plan.rng.choice([n for n in NAMESPACES if n != "default"])
    for pod in PODS:
        yield step("nopod", cluster, f"{name}/{pod}")
    for service in (*SERVICES, TENANT):
        yield step("del", cluster, "service", f"{name}/{service}")
        yield step("del", cluster, "slice", f"{name}/{service}-hand")
    for policy in ("p", "q", "broken"):
        yield step("del", cluster, "policy", f"{name}/{policy}")
    for policy in ("m", "n"):
        yield step("del", cluster, "networkpolicy", f"{name}/{policy}")
    yield step("del", cluster, "namespace", name)
    if plan.rng.random() < 0.5:
        yield step("wait", "1")
    labels = {"kubernetes.io/metadata.name": name}
    yield step("put", cluster, "namespace", {"metadata": {"name": name, "labels": labels}})


def pause(plan: Plan) -> Iterator[Step]:
    yield step("wait", str(plan.rng.choice((0.5, 1, 2, 5, 12))))
