# SPDX-License-Identifier: Apache-2.0
"""One cluster of a lab as a process: API server, controllers, kubelets and service rules on one event loop."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import secrets
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from lab.access import ClusterLogin, issue_certificates, write_kubeconfig
from lab.devkube.api.accounts import ADMIN
from lab.devkube.api.cluster import Cluster
from lab.devkube.api.objects import Obj
from lab.devkube.api.server import ApiServer, ServerOptions
from lab.devkube.controllers.balancer import LoadBalancers
from lab.devkube.controllers.daemonset import DaemonSets
from lab.devkube.controllers.deployment import Deployments
from lab.devkube.controllers.desired import ensure, is_true
from lab.devkube.controllers.endpoints import Endpoints
from lab.devkube.controllers.endpoints_mirror import EndpointsMirror
from lab.devkube.controllers.job import Jobs
from lab.devkube.controllers.loop import ControllerLoop
from lab.devkube.controllers.nodes import RootCertificates, heartbeat, register_node
from lab.devkube.controllers.podgc import PodGarbageCollector
from lab.devkube.controllers.replicaset import ReplicaSets
from lab.devkube.controllers.scheduler import Scheduler
from lab.devkube.kubelet.kubelet import Kubelets
from lab.devkube.kubelet.site import Site, machine_mounts
from lab.kubeproxy.loop import ProxyLoop
from lab.names import LabNames, lab_names
from lab.netns import listen_inside
from lab.pod_network import Cni
from lab.topology import API_PORT, ClusterPlan, cluster_named
from meshapi.installed import CLUSTER_ID_KEY, CLUSTER_NAME_KEY, CONFIG_MAP, SCOPE_KEY
from meshkit.clock import SystemClock
from meshkit.log import setup
from meshkit.task_group import TaskGroup

MANIFESTS: Final = Path(__file__).with_name("manifests")
SYSTEM: Final = "kube-system"
DNS_LABEL: Final = "k8s-app=kube-dns"


@dataclass(frozen=True, slots=True)
class Machinery:
    """Everything of a cluster but its HTTP server."""

    cluster: Cluster
    kubelets: Kubelets
    controllers: ControllerLoop
    proxy: ProxyLoop
    plan: ClusterPlan

    def start(self, group: TaskGroup) -> list[asyncio.Task[None]]:
        """All of it runs in the group, until the returned tasks are cancelled."""
        work = {
            "controllers": self.controllers.run(),
            "kubelets": self.kubelets.run(),
            "service-rules": self.proxy.run(),
            "heartbeat": heartbeat(self.cluster, self.plan.nodes),
        }
        return [group.create_task(run, name=name) for name, run in work.items()]


def assemble(lab: LabNames, plan: ClusterPlan, ca_certificate_pem: str) -> Machinery:
    """A cluster with its nodes and its system objects; nothing of it runs yet."""
    cluster = Cluster(plan.service_cidr)
    for node in plan.nodes:
        register_node(cluster, node)
    cluster.publish_api_server([plan.api_address], API_PORT)
    network = ThreadPoolExecutor(max_workers=1, thread_name_prefix="network")
    site = Site(cluster, plan, lab, network, SystemClock().wall, machine_mounts(), Cni(lab.cni.read_text()))
    controllers = (
        RootCertificates(cluster, ca_certificate_pem),
        Deployments(cluster),
        ReplicaSets(cluster),
        DaemonSets(cluster),
        Jobs(cluster),
        Scheduler(cluster),
        PodGarbageCollector(cluster),
        Endpoints(cluster),
        EndpointsMirror(cluster),
        LoadBalancers(cluster, plan.balancer_addresses),
    )
    machinery = Machinery(
        cluster, Kubelets(site), ControllerLoop(cluster, controllers), ProxyLoop(cluster, plan, lab), plan
    )
    for document in system_objects(plan):
        group = document["apiVersion"].rpartition("/")[0]
        resource = cluster.catalog.by_kind(group, document["kind"])
        if resource is not None:
            ensure(cluster, resource.plural, document, group)
    return machinery


def system_objects(plan: ClusterPlan) -> list[Obj]:
    """What a cluster has before anybody used it: its DNS, and its name and id in the mesh."""
    text = (MANIFESTS / "kube-dns.yaml").read_text().replace("DNS_ADDRESS", plan.dns_address)
    settings = {
        CLUSTER_NAME_KEY: plan.name,
        CLUSTER_ID_KEY: str(plan.cluster_id),
        SCOPE_KEY: "false",
    }
    meta = {"name": CONFIG_MAP, "namespace": SYSTEM}
    config: Obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": settings}
    return [*yaml.safe_load_all(text), config]


async def dns_ready(cluster: Cluster) -> None:
    """Returns once the cluster's DNS answers."""
    changed = asyncio.Event()
    unsubscribe = cluster.subscribe(lambda event: changed.set() if event.resource.plural == "pods" else None)
    try:
        while not any(
            is_true(pod, "Ready") for pod in cluster.list("pods", namespace=SYSTEM, label_selector=DNS_LABEL)
        ):
            changed.clear()
            await changed.wait()
    finally:
        unsubscribe()


async def run(lab: LabNames, plan: ClusterPlan) -> None:
    """The cluster is up until this process is told to end; says so in the ready file and leaves a kubeconfig."""
    tls, ca_certificate = issue_certificates(lab.directory / "tls" / plan.name, plan)
    machinery = assemble(lab, plan, ca_certificate)
    token = secrets.token_urlsafe(24)
    server = ApiServer(machinery.cluster, machinery.kubelets, ServerOptions(tokens={token: ADMIN}))
    loopback = socket.create_server(("127.0.0.1", 0))
    inner = listen_inside(lab.node(plan.nodes[0].name).netns, plan.api_address, API_PORT)
    write_kubeconfig(lab.kubeconfig(plan.name), [ClusterLogin(plan, loopback.getsockname()[1], ca_certificate, token)])
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with TaskGroup() as group:
        tasks = [group.create_task(server.serve([loopback, inner], tls), name="api"), *machinery.start(group)]
        ready = group.create_task(_announce(machinery.cluster, lab.daemon_ready(plan.name)), name="ready")
        await stop.wait()
        server.stop()
        for task in (*tasks, ready):
            task.cancel()


async def _announce(cluster: Cluster, path: Path) -> None:
    await dns_ready(cluster)
    _mark_ready(path)


def _mark_ready(path: Path) -> None:
    path.write_text(f"{os.getpid()}\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="lab.daemon", description="one cluster of a lab; started by `lab up`")
    parser.add_argument("--name", required=True)
    parser.add_argument("--cluster", required=True)
    options = parser.parse_args()
    setup("info")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    lab, plan = lab_names(options.name), cluster_named(options.cluster)
    asyncio.run(run(lab, plan))


if __name__ == "__main__":
    main()
