# SPDX-License-Identifier: Apache-2.0
"""Nodes: labels that come and go, networks that are not told, further addresses, values that are none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from tests.simulation.actors.plan import Plan
from tests.simulation.actors.users import pod_manifest
from tests.simulation.steps import Step, step

ODD_ADDRESSES: Final = (
    {"type": "Hostname", "address": "a-name"},
    {"type": "InternalIP", "address": "fd00::7"},
    {"type": "ExternalIP", "address": "203.0.113.9"},
    {"type": "InternalIP", "address": "not-an-ip"},
)


def node_manifest(plan: Plan, cluster: str, name: str) -> dict[str, Any]:
    """As the cluster was installed with it."""
    number, index = plan.clusters.index(cluster) + 1, int(name.rpartition("-")[2])
    cidr = f"10.{number}.{index}.0/24"
    return {
        "metadata": {"name": name},
        "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
        "status": {"addresses": [{"type": "InternalIP", "address": f"172.18.{number}.{index + 1}"}]},
    }


def relabel_node(plan: Plan) -> Iterator[Step]:
    cluster = plan.cluster()
    manifest = node_manifest(plan, cluster, plan.node(cluster))
    manifest["metadata"]["labels"] = {"topology.kubernetes.io/zone": plan.rng.choice(("z1", "z2", "")), "tier": "edge"}
    yield step("put", cluster, "node", manifest)


def odd_node(plan: Plan) -> Iterator[Step]:
    """For a while: a further address that is valid or none."""
    cluster = plan.cluster()
    name = plan.node(cluster)
    manifest = node_manifest(plan, cluster, name)
    manifest["status"]["addresses"].append(plan.rng.choice(ODD_ADDRESSES))
    yield step("put", cluster, "node", manifest)
    if plan.rng.random() < 0.5:
        plan.after(plan.rng.randrange(2, 10), step("put", cluster, "node", node_manifest(plan, cluster, name)))


def readdress_node(plan: Plan) -> Iterator[Step]:
    """The node has another address, and perhaps the first one again after a time. A pod may start there meanwhile."""
    cluster = plan.cluster()
    name = plan.node(cluster)
    first = node_manifest(plan, cluster, name)["status"]["addresses"][0]["address"]
    network, _, host = first.rpartition(".")
    yield step("readdress", cluster, name, f"{network}.{int(host) + 100}")
    if plan.rng.random() < 0.5:
        namespace, pod = plan.pod()
        yield step("wait", "1")
        yield step("nopod", cluster, f"{namespace}/{pod}")
        yield step("pod", cluster, name, pod_manifest(namespace, pod))
    if plan.rng.random() < 0.5:
        plan.after(plan.rng.randrange(1, 10), step("readdress", cluster, name, first))


def lose_node_object(plan: Plan) -> Iterator[Step]:
    """The object of a node that runs goes and comes back, as when a kubelet registers again: its network may be given later."""
    cluster = plan.cluster()
    name = plan.node(cluster)
    yield step("del", cluster, "node", name)
    if plan.rng.random() < 0.5:
        yield step("wait", str(plan.rng.choice((0.5, 2, 5))))
    manifest = node_manifest(plan, cluster, name)
    if plan.rng.random() < 0.4:
        yield step("put", cluster, "node", {**manifest, "spec": {}})
        plan.after(plan.rng.randrange(2, 6), step("put", cluster, "node", manifest))
    else:
        yield step("put", cluster, "node", manifest)
