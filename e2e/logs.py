# SPDX-License-Identifier: Apache-2.0
"""What programs wrote from some moment on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from e2e.mesh import SYSTEM, Cluster, Mesh

NOTABLE = ("warning", "error", "critical")


@dataclass(frozen=True)
class Log:
    """The log of one pod, from the moment it was opened."""

    mesh: Mesh
    cluster: Cluster
    pod: str
    seen: int

    def lines(self, **facts: object) -> list[Mapping[str, Any]]:
        """New lines that have these members."""
        found = _read(self.mesh, self.cluster, self.pod)[self.seen :]
        return [line for line in found if all(line.get(name) == value for name, value in facts.items())]

    def about(self, text: str) -> list[Mapping[str, Any]]:
        """New warnings and errors in which the text occurs."""
        return [line for line in self.lines() if line.get("level") in NOTABLE and text in json.dumps(line)]

    def says_once(self, text: str) -> bool:
        return len(self.about(text)) == 1


def open_log(mesh: Mesh, cluster: Cluster, pod: str) -> Log:
    return Log(mesh, cluster, pod, len(_read(mesh, cluster, pod)))


def agent_logs(mesh: Mesh, cluster: Cluster) -> list[Log]:
    """One per node."""
    pods = mesh.pods(cluster, "k8s-app=clustermesh-agent", SYSTEM)
    return [open_log(mesh, cluster, pod["metadata"]["name"]) for pod in pods]


def apiserver_log(mesh: Mesh, cluster: Cluster) -> Log:
    (pod,) = mesh.pods(cluster, "k8s-app=clustermesh-apiserver", SYSTEM)
    return open_log(mesh, cluster, pod["metadata"]["name"])


def _read(mesh: Mesh, cluster: Cluster, pod: str) -> list[Mapping[str, Any]]:
    found = []
    for text in mesh.kubectl(cluster, "logs", "-n", SYSTEM, pod).stdout.splitlines():
        line = json.loads(text) if text.startswith("{") else {"level": "error", "message": text}
        found.append(line)
    return found
