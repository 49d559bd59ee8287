# SPDX-License-Identifier: Apache-2.0
"""What a cluster says of itself, changed behind its back: etcd inside the apiserver's pod, as its administrator."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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

    def etcdctl(self, *words: str, input: str | None = None, check: bool = True) -> Result:  # noqa: A002
        tls = (f"--cacert={DATA}/ca.crt", f"--cert={DATA}/admin.crt", f"--key={DATA}/admin.key")
        command = ("env", "ETCDCTL_API=3", "etcdctl", f"--endpoints=https://{self.endpoint}", *tls, *words)
        options = ("-i",) if input is not None else ()
        return self.mesh.kubectl(
            self.cluster, "exec", *options, "-n", SYSTEM, self.pod, "--", *command, input=input, check=check
        )

    def put(self, key: str, value: str) -> None:
        self.etcdctl("put", key, input=value)

    def get(self, key: str) -> str:
        return self.etcdctl("get", "--print-value-only", key).stdout.rstrip("\n")

    def delete(self, key: str) -> None:
        self.etcdctl("del", key)

    def keys(self, prefix: str) -> list[str]:
        return self.etcdctl("get", "--prefix", "--keys-only", prefix).stdout.split()

    @contextmanager
    def holding(self, records: Mapping[str, object]) -> Iterator[None]:
        """During the block these records are there too; values that are no text are written as JSON."""
        try:
            for key, value in records.items():
                self.put(key, value if isinstance(value, str) else json.dumps(value))
            yield
        finally:
            for key in records:
                self.delete(key)


def open_store(mesh: Mesh, cluster: Cluster) -> Store:
    (pod,) = mesh.pods(cluster, "k8s-app=clustermesh-apiserver", SYSTEM)
    name = pod["metadata"]["name"]
    *_, started = (line for line in _all_lines(mesh, cluster, name) if line.get("message") == "etcd started")
    return Store(mesh, cluster, name, str(started["endpoint"]))


def _all_lines(mesh: Mesh, cluster: Cluster, pod: str) -> list[Mapping[str, object]]:
    log = open_log(mesh, cluster, pod)
    return type(log)(mesh, cluster, pod, 0).lines()
