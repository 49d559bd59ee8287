# SPDX-License-Identifier: Apache-2.0
"""One connected lab as scenarios use it: kubectl, the command, the programs' REST interfaces, and requests from a pod."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from clustermesh_cli.program_client import ProgramClient
from kube.config import load_client
from lab import cleanup
from lab.daemon import MANIFESTS
from lab.mesh import node_command
from lab.names import LabNames, lab_names
from lab.verdict import tally

Cluster = Literal["koornacht", "tion"]
CLUSTERS: Final[tuple[Cluster, Cluster]] = ("koornacht", "tion")
SYSTEM: Final = "kube-system"
PROGRAMS: Final = Path(sys.prefix, "bin")
COMMAND_LIMIT_S: Final = 120.0
SETTLE_S: Final = 20.0
POLL_S: Final = 0.1
SAMPLE: Final = 20
# each answer in one write, or the lines of many clients get mixed up
AT_ONCE: Final = (
    'for i in $(seq 1 {count}); do {{ r=$(curl -sS --max-time {limit} {target} 2>&1); echo "$r"; }} & done; wait'
)
IN_TURN: Final = "for i in $(seq 1 {count}); do curl -sS --max-time {limit} {target} 2>&1; done"
_pause: Final = threading.Event()

Result = subprocess.CompletedProcess[str]


def run(command: Sequence[str], *, input: str | None = None, check: bool = True, **environment: str) -> Result:  # noqa: A002
    """The command's result. Raises: AssertionError with all it printed where it had to succeed and did not."""
    path = f"{PROGRAMS}:{os.environ.get('PATH', '')}"
    done = subprocess.run(
        list(command),
        input=input,
        stdin=subprocess.DEVNULL if input is None else None,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=COMMAND_LIMIT_S,
        check=False,
        env={**os.environ, "PATH": path, **environment},
    )
    if check:
        assert done.returncode == 0, f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def lab(name: str, *words: str, check: bool = True) -> Result:
    """One verb of `python -m lab`, for the lab with this name."""
    return run([sys.executable, "-m", "lab", *words, "--name", name], check=check)


def wait_until(what: str, predicate: Callable[[], object], limit_s: float = SETTLE_S) -> Any:
    """What the predicate answers once that is true. Raises: AssertionError naming `what` and the last answer or error."""
    limit = time.monotonic() + limit_s
    while True:
        try:
            last = predicate()
        except (AssertionError, LookupError) as exc:
            last, shown = None, f"{type(exc).__name__}: {exc}"
        else:
            shown = repr(last)
        if last:
            return last
        assert time.monotonic() < limit, f"not within {limit_s:g} s: {what}; last seen: {shown[-2000:]}"
        _pause.wait(POLL_S)


def _answer(path: str, code: int, body: bytes) -> Any:
    assert code == 200, f"{path}: HTTP {code} {body[:256]!r}"
    return json.loads(body)


@dataclass
class Mesh:
    """A lab in which koornacht and tion are connected and answer for rebel-base together."""

    names: LabNames
    _agents: dict[str, str] = field(default_factory=dict)
    _programs: dict[str, ProgramClient] = field(default_factory=dict)

    # -- commands

    def kubectl(self, cluster: Cluster, *words: str, input: str | None = None, check: bool = True) -> Result:  # noqa: A002
        return run(["kubectl", *words], input=input, check=check, KUBECONFIG=str(self.names.kubeconfig(cluster)))

    def apply(self, cluster: Cluster, yaml_text: str) -> None:
        self.kubectl(cluster, "apply", "-f", "-", input=yaml_text)

    def delete(self, cluster: Cluster, yaml_text: str) -> None:
        """The objects of the text are gone; absent is success."""
        self.kubectl(cluster, "delete", "--ignore-not-found", "-f", "-", input=yaml_text)

    def clustermesh(self, *words: str, check: bool = True) -> Result:
        """The `clustermesh` command, with both contexts (koornacht's is current)."""
        kubeconfig = str(self.names.kubeconfig("global"))
        return run(["clustermesh", *words], check=check, KUBECONFIG=kubeconfig)

    def lab(self, *words: str, check: bool = True) -> Result:
        return lab(self.names.name, *words, check=check)

    def on_node(self, node: str, *words: str, check: bool = True) -> Result:
        """The command as a process of the node."""
        return run(node_command(self.names.node(node), words), check=check)

    def start_on_node(self, node: str, *words: str) -> subprocess.Popen[str]:
        """The command, running as a process of the node; whoever starts it ends it by closing its input."""
        command = node_command(self.names.node(node), words)
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    # -- objects

    def get(self, cluster: Cluster, *words: str) -> Any:
        """What `kubectl get` shows, as JSON."""
        return json.loads(self.kubectl(cluster, "get", *words, "-o", "json").stdout)

    def pods(self, cluster: Cluster, selector: str, namespace: str = "default") -> list[Any]:
        """Pods that run and are not about to end."""
        found = self.get(cluster, "pods", "-n", namespace, "-l", selector)["items"]
        live = [
            p for p in found if p["status"].get("phase") == "Running" and not p["metadata"].get("deletionTimestamp")
        ]
        return sorted(live, key=lambda p: str(p["metadata"]["name"]))

    def pod(self, cluster: Cluster, app: str) -> tuple[str, str, str]:
        """Name, node and address of the first ready pod of an application (label name=app)."""
        for found in self.pods(cluster, f"name={app}"):
            if is_ready(found):
                return found["metadata"]["name"], found["spec"]["nodeName"], found["status"]["podIP"]
        raise LookupError(f"{cluster}: no ready pod of {app}")

    # -- programs

    def agent_pod(self, cluster: Cluster, node: str) -> str:
        for found in self.pods(cluster, "k8s-app=clustermesh-agent", SYSTEM):
            if found["spec"]["nodeName"] == node:
                return str(found["metadata"]["name"])
        raise LookupError(f"no agent runs on {node}")

    def agent(self, cluster: Cluster, node: str, *words: str, check: bool = False) -> Result:
        """A verb of clustermesh-agent in the agent pod of the node."""
        pod = self.agent_pod(cluster, node)
        return self.kubectl(cluster, "exec", "-n", SYSTEM, pod, "--", "clustermesh-agent", *words, check=check)

    def agent_rest(self, cluster: Cluster, node: str, path: str) -> Any:
        """The JSON answer of the agent of the node, e.g. to /v1/status."""
        return _answer(path, *self.programs(cluster).get_agent(self.agent_pod(cluster, node), path))

    def apiserver_rest(self, cluster: Cluster, path: str) -> Any:
        """The JSON answer of the cluster's clustermesh-apiserver."""
        return _answer(path, *self.programs(cluster).get_apiserver(path))

    def programs(self, cluster: Cluster) -> ProgramClient:
        """The cluster's programs as the command asks them."""
        if cluster not in self._programs:
            client = load_client(str(self.names.kubeconfig(cluster)))
            self._programs[cluster] = ProgramClient(client, SYSTEM)
        return self._programs[cluster]

    # -- traffic

    def answers(
        self,
        cluster: Cluster,
        count: int = 40,
        max_time_s: float = 2,
        parallel: bool = True,
        target: str = "rebel-base",
    ) -> Counter[str]:
        """How requests from an x-wing pod of the cluster ended: by answering cluster, "timed out", "curl error N"."""
        script = (AT_ONCE if parallel else IN_TURN).format(count=count, limit=max_time_s, target=target)
        done = self.kubectl(cluster, "exec", "deployments/x-wing", "--", "/bin/sh", "-c", script, check=False)
        return outcomes(done.stdout + done.stderr)

    def wait_until(self, what: str, predicate: Callable[[], object], limit_s: float = SETTLE_S) -> Any:
        return wait_until(what, predicate, limit_s)

    def wait_for_answers(self, cluster: Cluster, *names: str, limit_s: float = SETTLE_S) -> None:
        """Requests from the cluster end in exactly these ways, each at least once."""
        wait_until(
            f"{cluster} gets answers of {names}", lambda: set(self.answers(cluster, SAMPLE)) == set(names), limit_s
        )

    # -- the application

    def deploy(self) -> None:
        """Both clusters run rebel-base and x-wing, two pods each, behind one global service."""
        for cluster in CLUSTERS:
            files = (f"configmap_{cluster}.yaml", "deployment.yaml", "service.yaml")
            self.kubectl(cluster, "apply", *(f"--filename={MANIFESTS / name}" for name in files))
            self.kubectl(cluster, "annotate", "service", "rebel-base", "service.cilium.io/global=true", "--overwrite")
        for cluster in CLUSTERS:
            for deployment in ("rebel-base", "x-wing"):
                self.kubectl(cluster, "rollout", "status", f"deployment/{deployment}", "--timeout=60s")
        self.expect_whole()

    def expect_whole(self) -> None:
        """Requests from either cluster are answered by both, and none fails."""
        for cluster in CLUSTERS:
            self.wait_for_answers(cluster, "Koornacht", "Tion")


def outcomes(text: str) -> Counter[str]:
    """The output of a curl loop, counted."""
    found = tally(text)
    counted = Counter(found.answers)
    counted.update({f"curl error {code}": n for code, n in found.others.items()})
    if found.timeouts:
        counted["timed out"] = found.timeouts
    return counted


def is_ready(pod: Any) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def bring_up(name: str, *how: str, settings: Sequence[str] = ()) -> Mesh:
    """A lab with this name where the two clusters are connected and the application runs.

    `how` are words for `lab up`, `settings` those of programs, such as "agent.vxlan-port=8473".
    """
    mesh = Mesh(lab_names(name))
    mesh.lab("up", *how)
    given = [word for setting in settings for word in ("--set", setting)]
    for cluster in CLUSTERS:
        mesh.clustermesh("enable", "--context", f"kind-{cluster}", "--service-type", "NodePort", *given)
    mesh.clustermesh("connect", "--context", "kind-koornacht", "--destination-context", "kind-tion")
    mesh.deploy()
    return mesh


def tear_down(name: str) -> None:
    """Nothing of the lab is left on this machine. Raises: AssertionError with what is."""
    lab = lab_names(name)
    cleanup.remove_lab(lab)
    assert not cleanup.leftovers(lab)
