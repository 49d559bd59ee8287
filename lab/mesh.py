# SPDX-License-Identifier: Apache-2.0
"""A whole lab: brought up from nothing, looked at, entered. `cleanup` is the way back."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lab import cgroup
from lab.access import merge_kubeconfigs
from lab.cleanup import remove_lab
from lab.images.table import REPOSITORY
from lab.netns import command_inside
from lab.network import build_underlay
from lab.state import LabState, NodeState
from lab.topology import CLUSTERS, POSSIBLE, ClusterPlan

READY_LIMIT_S: Final = 60.0
POLL_S: Final = 0.05
ENTER: Final = 'mount -t sysfs sysfs /sys && mount --bind "$1" /sys/fs/bpf && shift && exec "$@"'


class LabError(Exception):
    """The lab is not what the command needs; the message says what to do."""


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """One cluster of a lab. Units: processes counts the daemon's pods and everything in them."""

    name: str
    running: bool
    ready: bool
    processes: int


def up(state: LabState, size: int = len(CLUSTERS)) -> None:
    """The lab exists with so many clusters, and their DNS answers.

    Raises: LabError with the end of a log if one does not come up, or if it runs with another number of clusters.
    """
    if is_running(state):
        if size != len(clusters(state)):
            raise LabError(
                f"lab {state.name!r} runs with {len(clusters(state))} clusters: lab down --name {state.name}"
            )
        return
    remove_lab(state)
    try:
        _prepare(state, size)
        build_underlay(state, clusters(state))
        for plan in clusters(state):
            _start_daemon(state, plan)
        _wait_ready(state)
    except BaseException:
        remove_lab(state)
        raise
    merge_kubeconfigs(state.kubeconfig("global"), [state.kubeconfig(plan.name) for plan in clusters(state)])


def clusters(state: LabState) -> tuple[ClusterPlan, ...]:
    """The clusters that the lab has, or would have if nothing else is said."""
    return POSSIBLE[: int(state.size.read_text())] if state.size.exists() else CLUSTERS


def status(state: LabState) -> list[ClusterStatus]:
    """What there is of each cluster."""
    return [_cluster_status(state, plan) for plan in clusters(state)]


def is_running(state: LabState) -> bool:
    return all(cluster.running and cluster.ready for cluster in status(state))


def export_lines(state: LabState) -> list[str]:
    """What to type in each of the walkthrough's three tabs, and for a cluster that it does not have."""
    names = (*(plan.name for plan in clusters(state)), "global")
    return [f"export KUBECONFIG={state.kubeconfig(name)}" for name in names]


def node_command(node: NodeState, command: Sequence[str]) -> list[str]:
    """The command as it would run on the node: its network, its bpffs at /sys/fs/bpf."""
    mounts = ["unshare", "--mount", "--propagation", "private", "--"]
    return command_inside(node.netns, [*mounts, "/bin/sh", "-c", ENTER, "sh", str(node.bpffs), *command])


def _prepare(state: LabState, size: int) -> None:
    cgroup.ensure_mounted(state.cgroup_mount)
    state.directory.mkdir(parents=True)
    # a file system of its own: pods are layered over the machine's root and may not write below it
    _mount("tmpfs", state.directory)
    state.size.write_text(str(size))
    for plan in (node for cluster in clusters(state) for node in cluster.nodes):
        node = state.node(plan.name)
        for directory in (node.bpffs, node.root, node.pods):
            directory.mkdir(parents=True)
        _mount("bpf", node.bpffs)
        cgroup.ensure(node.cgroup)


def _mount(kind: str, where: object) -> None:
    subprocess.run(["mount", "-t", kind, "clustermesh-lab", str(where)], check=True)


def _start_daemon(state: LabState, plan: ClusterPlan) -> None:
    """The daemon runs in its control group, and is nobody's child that would have to wait for it."""
    group = state.cgroup / f"daemon-{plan.name}"
    cgroup.ensure(group)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "lab.daemon", "--name", state.name, "--cluster", plan.name]
    with state.daemon_log(plan.name).open("ab") as log:
        subprocess.run(
            cgroup.joined(group, ["setsid", "--fork", *command]),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            cwd="/",
            check=True,
        )


def _wait_ready(state: LabState) -> None:
    limit = time.monotonic() + READY_LIMIT_S
    waiting, pause = {plan.name for plan in clusters(state)}, threading.Event()
    while waiting:
        for name in sorted(waiting):
            if state.daemon_ready(name).exists():
                waiting.discard(name)
            elif not cgroup.processes(state.cgroup / f"daemon-{name}"):
                raise LabError(f"cluster {name} ended while it was starting:\n{_log_end(state, name)}")
        if waiting and time.monotonic() > limit:
            name = sorted(waiting)[0]
            raise LabError(f"cluster {name} is not ready after {READY_LIMIT_S:g} s:\n{_log_end(state, name)}")
        pause.wait(POLL_S)


def _log_end(state: LabState, name: str, lines: int = 15) -> str:
    path = state.daemon_log(name)
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else "(no log)"


def _cluster_status(state: LabState, plan: ClusterPlan) -> ClusterStatus:
    daemon = cgroup.processes(state.cgroup / f"daemon-{plan.name}")
    pods = sum(len(cgroup.processes(state.node(node.name).cgroup)) for node in plan.nodes)
    return ClusterStatus(plan.name, bool(daemon), state.daemon_ready(plan.name).exists(), pods)
