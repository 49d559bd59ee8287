# SPDX-License-Identifier: Apache-2.0
"""What a cluster says of itself, seen behind its back: etcd inside the apiserver's pod, as its administrator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from e2e.logs import open_log
from e2e.mesh import SYSTEM, Cluster, Mesh, Result

DATA = "/var/lib/clustermesh/data"


@dataclass(frozen=True)
class Store:
    """One cluster's private etcd. The endpoint is where the apiserver's log says it started it."""

    mesh: Mesh
    cluster: Cluster
    pod: str
    endpoint: str

    def etcdctl(self, *words: str) -> Result:
        tls = (f"--cacert={DATA}/ca.crt", f"--cert={DATA}/admin.crt", f"--key={DATA}/admin.key")
        command = ("env", "ETCDCTL_API=3", "etcdctl", f"--endpoints=https://{self.endpoint}", *tls, *words)
        return self.mesh.kubectl(self.cluster, "exec", "-n", SYSTEM, self.pod, "--", *command)

    def keys(self, prefix: str) -> list[str]:
        return self.etcdctl("get", "--prefix", "--keys-only", prefix).stdout.split()


def open_store(mesh: Mesh, cluster: Cluster) -> Store:
    (pod,) = mesh.pods(cluster, "k8s-app=clustermesh-apiserver", SYSTEM)
    name = pod["metadata"]["name"]
    *_, started = (line for line in _all_lines(mesh, cluster, name) if line.get("message") == "etcd started")
    return Store(mesh, cluster, name, str(started["endpoint"]))


def _all_lines(mesh: Mesh, cluster: Cluster, pod: str) -> list[Mapping[str, object]]:
    log = open_log(mesh, cluster, pod)
    return type(log)(mesh, cluster, pod, 0).lines()
