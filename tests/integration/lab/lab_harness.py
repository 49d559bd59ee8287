# SPDX-License-Identifier: Apache-2.0
"""How the lab's tests type: kubectl against one cluster, commands on a node."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lab import mesh
from lab.names import LabNames
from lab.tabs import Output, Tab
from lab.topology import node_named

Eventually = Callable[[Callable[[], Any]], Any]


@dataclass(frozen=True, slots=True)
class Kubectl:
    """kubectl against one cluster of the lab."""

    lab: LabNames
    cluster: str

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "KUBECONFIG": str(self.lab.kubeconfig(self.cluster))}
        return subprocess.run(
            ["kubectl", *arguments],
            input=stdin,
            text=True,
            capture_output=True,
            env=environment,
            timeout=30,
            check=False,
        )

    def __call__(self, *arguments: str, stdin: str = "") -> str:
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}{done.stdout}"
        return done.stdout

    def apply(self, *objects: dict[str, Any]) -> None:
        self("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def get(self, *arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("get", *arguments, "-o", "json"))
        return found

    def on_terminal(self, command: str) -> Output:
        """A whole command line, typed on a terminal."""
        return Tab(self.cluster, self.lab.kubeconfig(self.cluster), self.lab.directory).run(command, 30)


def on_node(lab: LabNames, node: str, *command: str) -> subprocess.CompletedProcess[str]:
    argv = mesh.node_command(lab.node(node_named(node).name), command)
    return subprocess.run(argv, text=True, capture_output=True, timeout=20, check=False)
