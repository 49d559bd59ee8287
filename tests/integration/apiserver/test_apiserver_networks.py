# SPDX-License-Identifier: Apache-2.0
"""Pod networks that are not in Node.spec.podCIDR, read of a real API: Calico's blocks, and the pools of a CiliumNode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clustermesh_apiserver.settings import SourceChoice
from kube.client import KubeClient, in_thread
from kube.resource import CALICO_IPAM_BLOCKS, CILIUM_ENDPOINTS, CILIUM_NODES, Resource, from_manifest
from kvstore.etcd import EtcdStore
from meshmodel import node
from meshmodel.names import ClusterId, ClusterName
from tests.integration.apiserver.apiserver_world import OWN, Pki, connect, eventually, run_apiserver, settings
from tests.integration.apiserver.workloads import Workloads

WORKER = "koornacht-worker"


async def networks(peer: EtcdStore) -> tuple[str, ...]:
    """What the worker's record announces."""
    found = await peer.get(f"cilium/state/nodes/v1/{OWN}/{WORKER}".encode())
    if found is None:
        return ()
    return node.decode(WORKER, found.value, cluster=ClusterName(OWN), cluster_id=ClusterId(1)).pod_cidrs


async def test_a_node_announces_calicos_blocks_as_they_come_and_go(
    client: KubeClient, workloads: Workloads, pki: Pki, tmp_path: Path
) -> None:
    workloads.node(WORKER, "172.18.0.3", "10.1.1.0/24")
    await define(client, CALICO_IPAM_BLOCKS)
    await in_thread(client.create, CALICO_IPAM_BLOCKS, block("172.16.4.0/26"))
    async with run_apiserver(client, settings(tmp_path)) as apiserver, connect(apiserver, pki.peer_tls()) as peer:
        await eventually(lambda: networks(peer), ("172.16.4.0/26",))
        await in_thread(client.create, CALICO_IPAM_BLOCKS, block("172.16.9.64/26"))
        await eventually(lambda: networks(peer), ("172.16.4.0/26", "172.16.9.64/26"))
        await in_thread(client.delete, CALICO_IPAM_BLOCKS, name_of("172.16.4.0/26"))
        await eventually(lambda: networks(peer), ("172.16.9.64/26",))


async def test_a_node_announces_the_pools_of_its_cilium_node(client: KubeClient, pki: Pki, tmp_path: Path) -> None:
    for resource in (CILIUM_NODES, CILIUM_ENDPOINTS):
        await define(client, resource)
    made = await in_thread(client.create, CILIUM_NODES, cilium_node("10.2.0.0/27", "10.2.0.64/27"))
    chosen = settings(tmp_path, source=SourceChoice.CILIUM)
    async with run_apiserver(client, chosen) as apiserver, connect(apiserver, pki.peer_tls()) as peer:
        await eventually(lambda: networks(peer), ("10.1.1.0/24", "10.2.0.0/27", "10.2.0.64/27"))
        assert made["metadata"]["name"] == WORKER
        await in_thread(client.apply, CILIUM_NODES, cilium_node("10.2.0.64/27"))
        await eventually(lambda: networks(peer), ("10.1.1.0/24", "10.2.0.64/27"))


async def define(client: KubeClient, resource: Resource) -> None:
    """The API serves this kind, with any fields."""
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    names = {"plural": resource.plural, "kind": resource.kind, "singular": resource.kind.lower()}
    version = {"name": resource.version, "served": True, "storage": True, "schema": schema}
    manifest: dict[str, Any] = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{resource.group}"},
        "spec": {
            "group": resource.group,
            "scope": "Namespaced" if resource.namespaced else "Cluster",
            "names": names | {"listKind": f"{resource.kind}List"},
            "versions": [version],
        },
    }
    await in_thread(client.apply, from_manifest(manifest), manifest)


def name_of(cidr: str) -> str:
    return cidr.replace(".", "-").replace("/", "-")


def block(cidr: str) -> dict[str, Any]:
    return {"metadata": {"name": name_of(cidr)}, "spec": {"affinity": f"host:{WORKER}", "cidr": cidr}}


def cilium_node(*pool: str) -> dict[str, Any]:
    allocated = [{"pool": "default", "cidrs": list(pool)}]
    spec = {
        "addresses": [{"type": "InternalIP", "ip": "172.18.0.3"}],
        "ipam": {"podCIDRs": ["10.1.1.0/24"], "pools": {"allocated": allocated}},
    }
    return {"metadata": {"name": WORKER}, "spec": spec}
