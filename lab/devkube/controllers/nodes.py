# SPDX-License-Identifier: Apache-2.0
"""Node objects and their heartbeats, and the root certificate every namespace is given."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from typing import Final

from lab.devkube.api.cluster import Cluster
from lab.devkube.api.objects import Obj, is_deleting, name_of, part, timestamp, uid_of
from lab.devkube.controllers.desired import condition, ensure, set_status
from lab.topology import NodePlan

CONTROL_PLANE: Final = "node-role.kubernetes.io/control-plane"
LEASE_NAMESPACE: Final = "kube-node-lease"
HEARTBEAT_S: Final = 10.0
LEASE_DURATION_S: Final = 40
VERSION: Final = "v1.32.0-dev"
CAPACITY: Final = {"cpu": str(os.cpu_count() or 1), "memory": "16Gi", "pods": "250", "ephemeral-storage": "64Gi"}
ROOT_CA: Final = "kube-root-ca.crt"


def register_node(cluster: Cluster, plan: NodePlan) -> Obj:
    """The Node exists as its kubelet would have registered it, and is ready."""
    labels = {"kubernetes.io/hostname": plan.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    spec: Obj = {
        "podCIDR": plan.pod_cidr,
        "podCIDRs": [plan.pod_cidr],
        "providerID": f"lab://{plan.cluster}/{plan.name}",
    }
    if plan.is_control_plane:
        labels[CONTROL_PLANE] = ""
        spec["taints"] = [{"key": CONTROL_PLANE, "effect": "NoSchedule"}]
    known = cluster.get("nodes", plan.name)
    node = known or ensure(cluster, "nodes", {"metadata": {"name": plan.name, "labels": labels}, "spec": spec})
    return set_status(cluster, "nodes", node, _status(part(node, "status"), plan, cluster.wall()))


def _status(before: Obj, plan: NodePlan, now_s: float) -> Obj:
    kubelet = (
        ("MemoryPressure", False, "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", False, "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", False, "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", True, "KubeletReady", "kubelet is posting ready status"),
    )
    beat = {"lastHeartbeatTime": timestamp(now_s)}
    found = [condition(before, kind, now_s, holds=h, reason=r, message=m) | beat for kind, h, r, m in kubelet]
    return {
        "conditions": found,
        "addresses": [{"type": "InternalIP", "address": plan.address}, {"type": "Hostname", "address": plan.name}],
        "capacity": CAPACITY,
        "allocatable": CAPACITY,
        "nodeInfo": {
            "kubeletVersion": VERSION,
            "kubeProxyVersion": VERSION,
            "osImage": "Debian GNU/Linux",
            "operatingSystem": "linux",
            "architecture": "amd64",
            "kernelVersion": os.uname().release,
            "containerRuntimeVersion": "processes://1",
            "machineID": plan.name,
            "systemUUID": plan.name,
            "bootID": plan.name,
        },
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
    }


async def heartbeat(cluster: Cluster, plans: Iterable[NodePlan]) -> None:
    """Every node's Lease is renewed for as long as this runs."""
    plans = tuple(plans)
    while True:
        for plan in plans:
            if (node := cluster.get("nodes", plan.name)) is not None:
                _renew(cluster, node)
        await asyncio.sleep(HEARTBEAT_S)


def _renew(cluster: Cluster, node: Obj) -> None:
    name = name_of(node)
    owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid_of(node)}
    meta = {"name": name, "namespace": LEASE_NAMESPACE, "ownerReferences": [owner]}
    renewed = timestamp(cluster.wall())[:-1] + ".000000Z"
    spec = {"holderIdentity": name, "leaseDurationSeconds": LEASE_DURATION_S, "renewTime": renewed}
    ensure(cluster, "leases", {"metadata": meta, "spec": spec}, "coordination.k8s.io")


class RootCertificates:
    """The ConfigMap by which pods of every namespace recognise their API server."""

    name = "root-certificates"
    watches = frozenset({("", "namespaces"), ("", "configmaps")})

    def __init__(self, cluster: Cluster, certificate_pem: str) -> None:
        self._cluster, self._certificate = cluster, certificate_pem

    def reconcile(self) -> None:
        for namespace in self._cluster.list("namespaces"):
            if not is_deleting(namespace):
                meta = {"name": ROOT_CA, "namespace": name_of(namespace)}
                ensure(self._cluster, "configmaps", {"metadata": meta, "data": {"ca.crt": self._certificate}})
