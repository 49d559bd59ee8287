# SPDX-License-Identifier: Apache-2.0
"""Processes that die, and what is seen of it in the meantime."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from e2e.mesh import SYSTEM, Cluster, Mesh, is_ready, run
from lab import cgroup
from lab.faults import nodes_of
from lab.mesh import node_command
from lab.netns import command_inside

MAPS: Final = ("mesh_services", "mesh_backends", "mesh_members", "mesh_ipcache", "mesh_policy", "mesh_ep_address")
PINS: Final = "/sys/fs/bpf/clustermesh/maps"
SAMPLE: Final = """
while :; do
  for map in "$@"; do
    content=$(bpftool -j map dump pinned "$0/$map") || exit 1
    echo "$map $(echo "$content" | md5sum)"
  done
done
"""
ENVOY: Final = "--disable-hot-restart"
DNS_PROXY: Final = "agent.dns.program"
OBSERVE_S: Final = 0.2


def processes_of(mesh: Mesh, pod: Any) -> list[int]:
    """Process ids in the pod's control group, as the machine knows them."""
    group = mesh.names.node(pod["spec"]["nodeName"]).cgroup / f"pod-{pod['metadata']['uid'][:13]}"
    return cgroup.processes(group)


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def proxies_of(mesh: Mesh, cluster: Cluster, node: str, word: str) -> list[int]:
    """Processes of the node's proxies with the word in their command line: ENVOY or DNS_PROXY."""
    (pod,) = [p for p in mesh.pods(cluster, "k8s-app=clustermesh-proxies", SYSTEM) if p["spec"]["nodeName"] == node]
    found = processes_of(mesh, pod)
    return [pid for pid in found if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]


def kill(pids: Sequence[int]) -> None:
    """The processes have no chance to say anything."""
    assert pids, "nothing runs there"
    send(pids, signal.SIGKILL)


def send(pids: Sequence[int], what: signal.Signals) -> None:
    """The processes get the signal; those that ended are none."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, what)


def restarts(pod: Any) -> int:
    return sum(int(s.get("restartCount", 0)) for s in pod["status"].get("containerStatuses", []))


def wait_for_restart(mesh: Mesh, cluster: Cluster, pod: Any, limit_s: float = 30.0) -> None:
    """The pod is ready again, with a container that was started after `pod` was looked at."""
    name = pod["metadata"]["name"]

    def is_back() -> bool:
        found = mesh.get(cluster, "pod", "-n", SYSTEM, name)
        return restarts(found) > restarts(pod) and is_ready(found)

    mesh.wait_until(f"{name} is back", is_back, limit_s)


@dataclass
class Samples:
    """Different contents of maps that were seen, by map."""

    output: Path
    seen: dict[str, set[str]] = field(default_factory=dict)

    def read(self) -> dict[str, set[str]]:
        for line in self.output.read_text().splitlines():
            name, _, checksum = line.partition(" ")
            if checksum:
                self.seen.setdefault(name, set()).add(checksum)
        return self.seen


@contextmanager
def sampled_maps(mesh: Mesh, node: str, maps: Sequence[str]) -> Iterator[Samples]:
    """The node's pinned maps are dumped over and over during the block."""
    with TemporaryDirectory() as directory:
        output = Path(directory, "output")
        with output.open("wb") as file:
            command = node_command(mesh.names.node(node), ["/bin/sh", "-c", SAMPLE, PINS, *maps])
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, start_new_session=True)
        samples = Samples(output)
        try:
            mesh.wait_until(f"all maps of {node} are sampled", lambda: set(samples.read()) == set(maps))
            yield samples
            assert process.poll() is None, f"the maps of {node} cannot be read any more"
            samples.read()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@dataclass
class Observed:
    """Everything a look has shown, in order, repetitions left out."""

    values: list[Any] = field(default_factory=list)


@contextmanager
def observed(look: Callable[[], Any]) -> Iterator[Observed]:
    """Somebody keeps looking during the block; what cannot be asked just then is not counted."""
    found, stop = Observed(), threading.Event()

    def watch() -> None:
        while not stop.is_set():
            with suppress(AssertionError, LookupError):
                value = look()
                if not found.values or found.values[-1] != value:
                    found.values.append(value)
            stop.wait(OBSERVE_S)

    thread = threading.Thread(target=watch, name="observer")
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


@contextmanager
def tunnels_dropped(mesh: Mesh, first: str = "koornacht", second: str = "tion") -> Iterator[None]:
    """Encapsulated packets between two places, clusters or nodes, are dropped; everything else passes."""
    ours, theirs = (", ".join(node.address for node in nodes_of(place)) for place in (first, second))
    rules = f"""
table bridge tunnels {{
  chain forward {{
    type filter hook forward priority 0;
    ip saddr {{ {ours} }} ip daddr {{ {theirs} }} udp dport 8472 drop
    ip saddr {{ {theirs} }} ip daddr {{ {ours} }} udp dport 8472 drop
  }}
}}
"""
    nft = command_inside(mesh.names.underlay, ["nft", "-f", "-"])
    try:
        run(nft, input=rules)
        yield
    finally:
        run(nft, input="table bridge tunnels {}\ndelete table bridge tunnels\n")
