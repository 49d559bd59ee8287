# SPDX-License-Identifier: Apache-2.0
"""Careless users: odd but valid values, the same object edited three times, names and kinds changed, deleted and made again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from tests.simulation.actors.plan import Plan
from tests.simulation.actors.users import pod_manifest, service_manifest
from tests.simulation.steps import Step, step

ODD_ANNOTATIONS: Final = (
    {"service.cilium.io/global": "True"},
    {"io.cilium/global-service": "true"},
    {"service.cilium.io/global": "false", "io.cilium/global-service": "true"},
    {"service.cilium.io/global": "true", "service.cilium.io/affinity": "Local"},
    {"service.cilium.io/global": "true", "service.cilium.io/affinity": "somewhere"},
    {"service.cilium.io/global": "true", "mesh.clustermesh.io/cluster-weights": "north=x"},
)
ODD_SLICES: Final = (
    ["010.1.1.3"],
    ["010.1.1.3"],
    ["not-an-ip"],
    ["fe80::1"],
    [],
)


def edit_service_three_times(plan: Plan) -> Iterator[Step]:
    namespace, name = plan.service()
    cluster = plan.cluster()
    number = plan.clusters.index(cluster) + 1
    for _ in range(3):
        manifest = service_manifest(number, namespace, name, dict(plan.rng.choice(ODD_ANNOTATIONS)))
        port = manifest["spec"]["ports"][0]
        match plan.rng.randrange(5):
            case 0:
                del port["name"]
            case 1:
                port["name"] = "other"
            case 2:
                port["port"] = 81
            case 3:
                port["protocol"] = "UDP"
            case _:
                port["targetPort"] = 9090
        yield step("put", cluster, "service", manifest)


def replace_service(plan: Plan) -> Iterator[Step]:
    """Deleted and made again at once, with another uid."""
    namespace, name = plan.service()
    cluster = plan.cluster()
    number = plan.clusters.index(cluster) + 1
    yield step("del", cluster, "service", f"{namespace}/{name}")
    annotations = {"service.cilium.io/global": plan.rng.choice(("true", "false"))}
    yield step("put", cluster, "service", service_manifest(number, namespace, name, annotations))


def odd_slice(plan: Plan) -> Iterator[Step]:
    """A slice by hand beside the controller's, for good or for a while: addresses that are none are left out, and named."""
    namespace, name = plan.service()
    cluster = plan.cluster()
    key = f"{namespace}/{name}-hand"
    endpoints = [{"addresses": list(plan.rng.choice(ODD_SLICES)), "conditions": {"ready": True}}]
    labels = {"kubernetes.io/service-name": name}
    manifest = {
        "metadata": {"name": f"{name}-hand", "namespace": namespace, "labels": labels},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }
    yield step("put", cluster, "slice", manifest)
    if plan.rng.random() < 0.5:
        plan.after(plan.rng.randrange(2, 8), step("del", cluster, "slice", key))


def headless(plan: Plan) -> Iterator[Step]:
    """A Service loses its address, or becomes a name."""
    namespace, name = plan.service()
    cluster = plan.cluster()
    number = plan.clusters.index(cluster) + 1
    manifest = service_manifest(number, namespace, name, {"service.cilium.io/global": "true"})
    if plan.rng.random() < 0.5:
        manifest["spec"] |= {"clusterIP": "None", "clusterIPs": ["None"]}
    else:
        manifest["spec"] = {"type": "ExternalName", "externalName": "example.org", "ports": manifest["spec"]["ports"]}
    yield step("put", cluster, "service", manifest)


def move_pod(plan: Plan) -> Iterator[Step]:
    """The same name on another node, at once."""
    namespace, name = plan.pod()
    cluster = plan.cluster()
    for _ in range(2):
        yield step("pod", cluster, plan.node(cluster), pod_manifest(namespace, name))
        yield step("nopod", cluster, f"{namespace}/{name}")
    yield step("pod", cluster, plan.node(cluster), pod_manifest(namespace, name))


def unshare_and_share(plan: Plan) -> Iterator[Step]:
    """A namespace leaves the mesh and is back at once, while its pods change and their node hears late of either."""
    namespace, name = plan.pod()
    cluster = plan.cluster()
    node = plan.node(cluster)
    meta: dict[str, Any] = {"name": namespace, "labels": {"kubernetes.io/metadata.name": namespace}}
    yield step("slow", node, f"own.{cluster}", "2")
    for tier, is_global in (("a", "false"), ("b", "true"), ("a", "false"), ("b", "true")):
        yield step("pod", cluster, node, pod_manifest(namespace, name, tier=tier))
        told = {"annotations": {"clustermesh.cilium.io/global": is_global}}
        yield step("put", cluster, "namespace", {"metadata": meta | told})
        yield step("wait", str(plan.rng.choice((0.1, 0.3, 0.6, 1.5))))
    plan.after(plan.rng.randrange(1, 3), step("slow", node, f"own.{cluster}", "0"))


def unshare_unheard(plan: Plan) -> Iterator[Step]:
    """A namespace leaves the mesh and is back with another pod while a node hears nothing of its own store: it hears of either
    part when the connection is back, in any order.
    """
    namespace, name = plan.pod()
    cluster = plan.cluster()
    node = plan.node(cluster)
    meta: dict[str, Any] = {"name": namespace, "labels": {"kubernetes.io/metadata.name": namespace}}
    where = plan.node(cluster)
    yield step("pod", cluster, where, pod_manifest(namespace, name, tier="a"))
    yield step("wait", "1")
    yield step("cut", node, f"own.{cluster}")
    for tier, is_global in (("b", "false"), ("a", "true")):
        told = {"annotations": {"clustermesh.cilium.io/global": is_global}}
        yield step("put", cluster, "namespace", {"metadata": meta | told})
        yield step("wait", "0.5")
        yield step("pod", cluster, where, pod_manifest(namespace, name, tier=tier))
        yield step("wait", "1")
    yield step("heal", node, f"own.{cluster}")
