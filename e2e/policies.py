# SPDX-License-Identifier: Apache-2.0
"""What policy scenarios share: policies in force for a while, and who reaches whom meanwhile."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from e2e.mesh import Cluster, Mesh, run, wait_until
from lab.daemon import MANIFESTS
from lab.mesh import node_command

REACHED, DROPPED = "reached", "dropped"
OUTSIDE: Final = "172.18.0.200"
NODE_PORT: Final = 8099
LIMIT_S: Final = 1.0
# all at once, one line each: a dropped packet is only told by waiting
ASK: Final = "{{ curl -sS -o /dev/null --max-time {limit} {target} 2>/dev/null; echo {number} $?; }} &"
CODES: Final = {"0": REACHED, "28": DROPPED}


def manifest(name: str) -> str:
    """A file of the walkthrough."""
    return (MANIFESTS / name).read_text()


def cilium_policy(name: str, app: str, spec: str) -> str:
    """A CiliumNetworkPolicy on the pods of an application; `spec` is the rest of its spec, in flow style."""
    return (
        f"apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}, namespace: default}}\n"
        f"spec: {{endpointSelector: {{matchLabels: {{name: {app}}}}}, {spec}}}\n"
    )


def kubernetes_policy(name: str, app: str, spec: str) -> str:
    """A NetworkPolicy on the pods of an application; `spec` is the rest of its spec, in flow style."""
    return (
        f"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: default}}\n"
        f"spec: {{podSelector: {{matchLabels: {{name: {app}}}}}, {spec}}}\n"
    )


@contextmanager
def in_force(mesh: Mesh, policies: Mapping[Cluster, Sequence[str]]) -> Iterator[None]:
    """The policies exist during the block, and not after it, whatever happens."""
    try:
        for cluster, texts in policies.items():
            mesh.apply(cluster, "---\n".join(texts))
        yield
    finally:
        for cluster, texts in policies.items():
            mesh.delete(cluster, "---\n".join(texts))


@dataclass(frozen=True)
class Place:
    """Where a request comes from: a pod of a cluster."""

    cluster: Cluster
    pod: str


def ask(mesh: Mesh, source: Place, targets: Mapping[str, str]) -> dict[str, str]:
    """What became of one request to each target: reached, dropped, or the client's error."""
    script = "\n".join(ASK.format(limit=LIMIT_S, target=t, number=n) for n, t in enumerate(targets.values()))
    done = mesh.kubectl(source.cluster, "exec", source.pod, "--", "/bin/sh", "-c", f"{script}\nwait")
    found = dict(line.split() for line in done.stdout.splitlines())
    codes = [found[str(number)] for number in range(len(targets))]
    return {name: CODES.get(code, f"curl error {code}") for name, code in zip(targets, codes, strict=True)}


def ask_from(mesh: Mesh, sources: Mapping[str, Place], target: str) -> dict[str, str]:
    """What became of one request from each source."""
    with ThreadPoolExecutor(len(sources)) as pool:
        asked = {name: pool.submit(ask, mesh, source, {"it": target}) for name, source in sources.items()}
        return {name: future.result()["it"] for name, future in asked.items()}


@contextmanager
def servers(mesh: Mesh, nodes: Sequence[str], outside_at: str) -> Iterator[None]:
    """Every node answers on its NODE_PORT, and one of them for an address that belongs to no cluster."""
    device = next(
        line.split()[0].partition("@")[0]
        for line in mesh.on_node(outside_at, "ip", "-brief", "address").stdout.splitlines()
        if "172.18.0." in line
    )
    running = []
    mesh.on_node(outside_at, "ip", "address", "add", f"{OUTSIDE}/32", "dev", device)
    try:
        with TemporaryDirectory() as directory:
            words = ("python3", "-m", "http.server", "--directory", directory, str(NODE_PORT))
            for node in nodes:
                command = node_command(mesh.names.node(node), words)
                running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            for node in nodes:
                wait_until(f"{node} serves", partial(_serves, mesh, node))
            yield
    finally:
        for process in running:
            process.terminate()
            process.wait()
        mesh.on_node(outside_at, "ip", "address", "del", f"{OUTSIDE}/32", "dev", device, check=False)


def _serves(mesh: Mesh, node: str) -> bool:
    return mesh.on_node(node, "curl", "-sS", f"127.0.0.1:{NODE_PORT}", check=False).returncode == 0


@contextmanager
def in_pod(mesh: Mesh, place: Place, script: str, *arguments: str) -> Iterator[Callable[[], list[str]]]:
    """A Python script runs in the pod during the block; the call gives the lines it printed so far."""
    pod = ["kubectl", f"--kubeconfig={mesh.names.kubeconfig(place.cluster)}", "exec", place.pod, "--"]
    program = f"import os\nprint(os.getpid(), flush=True)\n{script}"
    with TemporaryDirectory() as directory:
        output = Path(directory, "output")
        with output.open("wb") as file:
            words = [*pod, "python3", "-u", "-c", program, *arguments]
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=file, stderr=file)

        def lines() -> list[str]:
            return output.read_text(errors="replace").splitlines()[1:]

        try:
            wait_until(f"the script runs in {place.pod}", lambda: output.read_text().partition("\n")[1])
            yield lines
        finally:
            number = output.read_text().partition("\n")[0]
            if number.isdecimal():
                run([*pod, "kill", "-KILL", number], check=False)
            process.terminate()
            process.wait()
