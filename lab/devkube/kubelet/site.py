# SPDX-License-Identifier: Apache-2.0
"""What all pods of one cluster share: its objects, its names on this machine, its addresses."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.devkube.api.cluster import Cluster
from lab.devkube.api.objects import Obj, name_of, uid_of
from lab.devkube.controllers.events import EventRecorder
from lab.devkube.kubelet.process import Mount
from lab.images.table import REPOSITORY, Image, find_image
from lab.images.unpacked import find_unpacked
from lab.names import LabNames, NodeNames
from lab.pod_network import Cni
from lab.topology import ClusterPlan, NodePlan

FIRST_POD: Final = 2


class PodAddresses:
    """The addresses of one node's pods; a freed one is taken again as late as possible."""

    def __init__(self, pod_cidr: str) -> None:
        self._network = ipaddress.ip_network(pod_cidr)
        self._taken: set[str] = set()
        self._next = FIRST_POD

    def take(self) -> str:
        """Raises: LookupError if the node has no address left."""
        usable = self._network.num_addresses - 1 - FIRST_POD
        for step in range(usable):
            offset = FIRST_POD + (self._next - FIRST_POD + step) % usable
            address = str(self._network[offset])
            if address not in self._taken:
                self._taken.add(address)
                self._next = offset + 1
                return address
        raise LookupError(f"no free pod address in {self._network}")

    def free(self, address: str) -> None:
        self._taken.discard(address)


@dataclass(frozen=True, slots=True)
class NodeSite:
    """One node as its pods need it."""

    plan: NodePlan
    names: NodeNames
    events: EventRecorder
    addresses: PodAddresses

    def directory(self, pod: Obj) -> Path:
        return self.names.pods / uid_of(pod)

    def cgroup(self, pod: Obj) -> Path:
        return self.names.cgroup / f"pod-{uid_of(pod)[:13]}"

    @property
    def special_paths(self) -> dict[str, Path]:
        """Host paths that lead to the node's own instance of something the machine has only one of."""
        return {"/sys/fs/bpf": self.names.bpffs, "/sys/fs/cgroup": self.names.cgroup}


@dataclass(frozen=True, slots=True)
class Site:
    """One cluster as its pods need it. Namespaces and links are made in the thread of `network`."""

    cluster: Cluster
    plan: ClusterPlan
    lab: LabNames
    network: Executor
    wall: Callable[[], float]
    machine_mounts: tuple[Mount, ...] = ()
    cni: Cni = Cni.ROUTED

    def find(self, plural: str, namespace: str, name: str) -> Obj | None:
        return self.cluster.get(plural, name, namespace)

    def find_image(self, reference: str) -> Image | None:
        """The real image, where the lab was given it; else what the machine has in its place. None if there is neither."""
        return find_unpacked(self.lab.images, reference) or find_image(reference)

    def node(self, plan: NodePlan) -> NodeSite:
        events = EventRecorder(self.cluster, "kubelet", plan.name)
        return NodeSite(plan, self.lab.node(plan.name), events, PodAddresses(plan.pod_cidr))

    def service_environment(self) -> dict[str, str]:
        """How a pod finds its API server."""
        host = self.plan.kubernetes_address
        return {
            "KUBERNETES_SERVICE_HOST": host,
            "KUBERNETES_SERVICE_PORT": "443",
            "KUBERNETES_SERVICE_PORT_HTTPS": "443",
            "KUBERNETES_PORT": f"tcp://{host}:443",
        }


# container.sh gives every pod these
PRIVATE_DIRECTORIES: Final = (Path("/tmp"), Path("/run"), Path("/dev"))


def machine_mounts() -> tuple[Mount, ...]:
    """Our own programs and their interpreter, where a pod would not see them: on another file system than the root that
    pods are layered over, or below a directory that every pod has of its own."""
    root_device = os.stat("/").st_dev  # noqa: PTH116
    places = {REPOSITORY, Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}
    return tuple(
        Mount(path, str(path), "ro")
        for path in sorted(places)
        if path.stat().st_dev != root_device or any(path.is_relative_to(own) for own in PRIVATE_DIRECTORIES)
    )


def resolv_conf(pod: Obj, plan: ClusterPlan) -> str:
    """The pod's /etc/resolv.conf by its dnsPolicy; on the node's network the node's own, which knows no server."""
    spec = pod["spec"]
    policy = spec.get("dnsPolicy", "ClusterFirst")
    if policy == "ClusterFirst" and spec.get("hostNetwork"):
        policy = "Default"
    namespace = pod["metadata"]["namespace"]
    lines: list[str] = []
    searches: list[str] = []
    options: list[str] = []
    if policy in ("ClusterFirst", "ClusterFirstWithHostNet"):
        lines.append(f"nameserver {plan.dns_address}")
        searches = [f"{namespace}.svc.cluster.local", "svc.cluster.local", "cluster.local"]
        options = ["ndots:5"]
    own = spec.get("dnsConfig") or {}
    lines += [f"nameserver {server}" for server in own.get("nameservers") or []]
    searches += own.get("searches") or []
    options += [o["name"] + (f":{o['value']}" if o.get("value") else "") for o in own.get("options") or []]
    if searches:
        lines.append(f"search {' '.join(searches)}")
    if options:
        lines.append(f"options {' '.join(options)}")
    return "\n".join(lines) + "\n"


def hosts_file(pod: Obj, address: str, hostname: str) -> str:
    """The pod's /etc/hosts."""
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback", f"{address}\t{hostname}"]
    aliases = pod["spec"].get("hostAliases") or []
    lines += [f"{alias['ip']}\t" + " ".join(alias.get("hostnames") or []) for alias in aliases]
    return "\n".join(lines) + "\n"


def hostname_of(pod: Obj, node: NodePlan) -> str:
    """A pod is called by its name, on the node's network by the node's."""
    if pod["spec"].get("hostNetwork"):
        return node.name
    return str(pod["spec"].get("hostname") or name_of(pod))[:63]
