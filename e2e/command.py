# SPDX-License-Identifier: Apache-2.0
"""How commands are judged: by their one line of error, their exit code, and what they changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from e2e.mesh import SYSTEM, Cluster, Mesh, Result

FAILED: Final = 1
USAGE: Final = 2
DEGRADED: Final = 3
CHECK_FAILED: Final = 4
TIMEOUT: Final = 5
REFUSED: Final = 6
CONNECTION: Final = ("--context", "kind-koornacht", "--destination-context", "kind-tion")
KINDS: Final = (
    "secrets,configmaps,services,serviceaccounts,clusterroles,clusterrolebindings,roles,rolebindings,"
    "customresourcedefinitions,daemonsets,deployments"
)
REPLICATED: Final = ("DaemonSet", "Deployment")


def assert_one_line(done: Result, code: int, *words: str) -> None:
    """The command failed with this exit code and one line on standard error that contains the words."""
    lines = done.stderr.strip().splitlines()
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("Error: ")
    for word in words:
        assert word in lines[0]


def versions(mesh: Mesh, cluster: Cluster) -> Mapping[str, str]:
    """The version of everything the mesh is made of; of workloads only what was asked for, not how they fare."""
    found = {}
    for item in mesh.get(cluster, KINDS, "-n", SYSTEM)["items"]:
        meta = item["metadata"]
        version = f"generation {meta['generation']}" if item["kind"] in REPLICATED else meta["resourceVersion"]
        found[f"{item['kind']}/{meta['name']}"] = version
    assert {"Secret/clustermesh-ca", "Deployment/clustermesh-apiserver", "DaemonSet/clustermesh-agent"} <= set(found)
    return found
