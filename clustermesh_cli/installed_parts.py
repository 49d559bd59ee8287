# SPDX-License-Identifier: Apache-2.0
"""What of the mesh is installed in a cluster: its workloads with their replicas and images, and its settings. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from meshapi.row import SCHEMA, Row


class InstalledPart(Row, kw_only=True):
    """One workload. `desired` is how many pods there should be; `images` are by container."""

    kind: str
    name: str
    desired: int
    ready: int
    available: int
    images: dict[str, str]

    @property
    def is_whole(self) -> bool:
        return self.desired == self.ready == self.available and self.desired > 0


class InstalledSummary(Row, kw_only=True):
    """Every workload of the mesh in one cluster; `missing` are those that are not there."""

    schema: int = SCHEMA
    cluster: str
    parts: list[InstalledPart]
    missing: list[str]


class InstalledSettings(Row, kw_only=True):
    """What the cluster's ConfigMap says, by its own keys, which are those of Cilium."""

    schema: int = SCHEMA
    config_map: str
    settings: dict[str, str]


def read_part(kind: str, workload: Mapping[str, Any]) -> InstalledPart:
    """A Deployment or DaemonSet as it stands."""
    status = workload.get("status") or {}
    if kind == "DaemonSet":
        desired, ready, available = (
            status.get(name, 0) for name in ("desiredNumberScheduled", "numberReady", "numberAvailable")
        )
    else:
        desired = workload["spec"].get("replicas", 1)
        ready, available = status.get("readyReplicas", 0), status.get("availableReplicas", 0)
    containers = workload["spec"]["template"]["spec"].get("containers") or ()
    images = {str(container["name"]): str(container.get("image", "")) for container in containers}
    name = str(workload["metadata"]["name"])
    return InstalledPart(kind=kind, name=name, desired=desired, ready=ready, available=available, images=images)


def summary_lines(summary: InstalledSummary) -> Iterable[str]:
    """As `cilium status` has them: one line of replicas and one of images for each workload."""
    yield f"CLUSTER {summary.cluster or '(unnamed)'}"
    for part in summary.parts:
        yield (
            f"{part.kind:<12}{part.name:<26}Desired: {part.desired}, Ready: {part.ready}/{part.desired}, "
            f"Available: {part.available}/{part.desired}"
        )
    for part in summary.parts:
        for container, image in sorted(part.images.items()):
            yield f"{'Image':<12}{part.name:<26}{container}: {image}"
    for name in summary.missing:
        yield f"Missing: {name}"


def settings_lines(found: InstalledSettings) -> Iterable[str]:
    """One key a line, in order, for `grep`."""
    width = max((len(key) for key in found.settings), default=0) + 2
    for key, value in sorted(found.settings.items()):
        yield f"{key:<{width}}{' '.join(value.split())}"
