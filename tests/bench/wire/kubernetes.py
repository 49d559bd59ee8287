# SPDX-License-Identifier: Apache-2.0
"""The embedded Kubernetes API in a process of its own, with a cluster of some size in it, for the publisher to read."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import yaml

from kube.client import in_thread
from kube.config import load_client
from kube.resource import from_manifest
from lab.devkube.api.accounts import ADMIN
from lab.devkube.api.cluster import Cluster
from lab.devkube.api.server import ApiServer, ServerOptions
from tests.bench.wire import cluster_rows, records
from tests.bench.wire.child import Talk
from tests.bench.wire.records import NAMESPACES, Shape
from tests.integration.devkube.fake_workloads import FakeRuntime

TOKEN = "bench"
SLICES = "discovery.k8s.io"
CRDS = Path(__file__).parents[3] / "deploy/crds"


async def serve(talk: Talk, kubeconfig: str, shape: dict[str, int]) -> dict[str, Any]:
    """Serves until the parent has enough. Identities are not among the objects: the publisher makes them of the pods."""
    cluster = Cluster("172.20.0.0/16", keep_events=50_000)
    listener = socket.create_server(("127.0.0.1", 0))
    server = ApiServer(cluster, FakeRuntime(), ServerOptions({TOKEN: ADMIN}))
    await asyncio.to_thread(_write_kubeconfig, Path(kubeconfig), listener.getsockname()[1])
    serving = asyncio.create_task(server.serve([listener]))
    client = await in_thread(load_client, kubeconfig)
    for path in sorted(CRDS.glob("*.yaml")):
        for manifest in yaml.safe_load_all(path.read_text()):
            await in_thread(client.apply, from_manifest(manifest), manifest)
    fill(cluster, Shape(**shape))
    talk.say(ready=True)
    await talk.hear()
    server.stop()
    await serving
    return {}


def fill(cluster: Cluster, shape: Shape) -> None:
    """What controllers and kubelets would have written."""
    for index in range(NAMESPACES):
        cluster.create("namespaces", {"metadata": {"name": f"namespace-{index}"}})
    for index in range(shape.nodes):
        row = cluster_rows.node_row(index)
        meta = {"name": row.name, "labels": dict(row.labels)}
        node = cluster.create("nodes", {"metadata": meta, "spec": {"podCIDRs": list(row.pod_cidrs)}})
        node["status"] = {"addresses": [{"type": kind, "address": ip} for kind, ip in row.addresses]}
        cluster.update("nodes", node, subresource="status")
    for index in range(shape.services):
        cluster.create("services", _bare(cluster_rows.service_object(index)))
        cluster.create("endpointslices", _bare(cluster_rows.slice_object(index)), SLICES)
    for index in range(shape.ips):
        _add_pod(cluster, index, shape.identities)


def _add_pod(cluster: Cluster, index: int, identities: int) -> None:
    """Pods of one workload share namespace and labels, so that there are as many label sets as identities."""
    workload = index % identities
    meta = {
        "name": f"service-{workload}-5d9f7c9d4-{index:06d}",
        "namespace": f"namespace-{workload % NAMESPACES}",
        "labels": {"app": f"service-{workload}", "pod-template-hash": "5d9f7c9d4"},
    }
    spec = {"containers": [{"name": "c", "image": "nginx"}], "nodeName": f"node-{index % 50}"}
    pod = cluster.create("pods", {"metadata": meta, "spec": spec})
    ip = records.pod_ip(index)
    pod["status"] = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": records.node_ip(index % 50)}
    cluster.update("pods", pod, subresource="status")


def _bare(made: dict[str, Any]) -> dict[str, Any]:
    """Without what the API server itself decides."""
    kept = {
        name: value
        for name, value in made["metadata"].items()
        if name in ("name", "namespace", "labels", "annotations")
    }
    return {**made, "metadata": kept}


def _write_kubeconfig(path: Path, port: int) -> None:
    document = {
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {"token": TOKEN}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
    path.write_text(yaml.safe_dump(document))
