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
from pathlib import Path
from typing import Final

from lab import cgroup
from lab.access import merge_kubeconfigs
from lab.cleanup import remove_lab
from lab.images.table import REPOSITORY
from lab.names import LabNames, NodeNames
from lab.netns import command_inside
from lab.network import build_underlay
from lab.pod_network import Cni
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


def up(lab: LabNames, size: int = len(CLUSTERS), cni: Cni = Cni.ROUTED, images: Path | None = None) -> None:
    """The lab exists with so many clusters, whose pods reach their nodes in this way, and their DNS answers. Images that are
    unpacked below `images` are run in place of the machine's own files (`lab.images.unpacked`).

    Raises: LabError with the end of a log if one does not come up, or if it runs with other clusters or in another way.
    """
    if is_running(lab):
        if (size, cni) != (len(clusters(lab)), cni_of(lab)):
            raise LabError(
                f"lab {lab.name!r} runs with {len(clusters(lab))} clusters, --cni {cni_of(lab)}: lab down --name {lab.name}"
            )
        return
    remove_lab(lab)
    try:
        _prepare(lab, size, cni)
        if images is not None:
            lab.images.symlink_to(images.resolve())
        build_underlay(lab, clusters(lab), cni)
        for plan in clusters(lab):
            _start_daemon(lab, plan)
        _wait_ready(lab)
    except BaseException:
        remove_lab(lab)
        raise
    merge_kubeconfigs(lab.kubeconfig("global"), [lab.kubeconfig(plan.name) for plan in clusters(lab)])


def clusters(lab: LabNames) -> tuple[ClusterPlan, ...]:
    """The clusters that the lab has, or would have if nothing else is said."""
    return POSSIBLE[: int(lab.size.read_text())] if lab.size.exists() else CLUSTERS


def cni_of(lab: LabNames) -> Cni:
    """How the lab's pods reach their nodes, or would if nothing else is said."""
    return Cni(lab.cni.read_text()) if lab.cni.exists() else Cni.ROUTED


def status(lab: LabNames) -> list[ClusterStatus]:
    """What there is of each cluster."""
    return [_cluster_status(lab, plan) for plan in clusters(lab)]


def is_running(lab: LabNames) -> bool:
    return all(cluster.running and cluster.ready for cluster in status(lab))


def export_lines(lab: LabNames) -> list[str]:
    """What to type in each of the walkthrough's three tabs, and for a cluster that it does not have."""
    names = (*(plan.name for plan in clusters(lab)), "global")
    return [f"export KUBECONFIG={lab.kubeconfig(name)}" for name in names]


def node_command(node: NodeNames, command: Sequence[str]) -> list[str]:
    """The command as it would run on the node: its network, its control group, its bpffs at /sys/fs/bpf."""
    mounts = ["unshare", "--mount", "--propagation", "private", "--"]
    entered = command_inside(node.netns, [*mounts, "/bin/sh", "-c", ENTER, "sh", str(node.bpffs), *command])
    return cgroup.joined(node.system_cgroup, entered)


def _prepare(lab: LabNames, size: int, cni: Cni) -> None:
    cgroup.ensure_mounted(lab.cgroup_mount)
    lab.directory.mkdir(parents=True)
    # a file system of its own: pods are layered over the machine's root and may not write below it
    _mount("tmpfs", lab.directory)
    lab.size.write_text(str(size))
    lab.cni.write_text(cni)
    for plan in (node for cluster in clusters(lab) for node in cluster.nodes):
        node = lab.node(plan.name)
        for directory in (node.bpffs, node.root, node.pods):
            directory.mkdir(parents=True)
        _mount("bpf", node.bpffs)
        cgroup.ensure(node.system_cgroup)


def _mount(kind: str, where: object) -> None:
    subprocess.run(["mount", "-t", kind, "clustermesh-lab", str(where)], check=True)


def _start_daemon(lab: LabNames, plan: ClusterPlan) -> None:
    """The daemon runs in its control group, and is nobody's child that would have to wait for it."""
    group = lab.cgroup / f"daemon-{plan.name}"
    cgroup.ensure(group)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "lab.daemon", "--name", lab.name, "--cluster", plan.name]
    with lab.daemon_log(plan.name).open("ab") as log:
        subprocess.run(
            cgroup.joined(group, ["setsid", "--fork", *command]),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            cwd="/",
            check=True,
        )


def _wait_ready(lab: LabNames) -> None:
    limit = time.monotonic() + READY_LIMIT_S
    waiting, pause = {plan.name for plan in clusters(lab)}, threading.Event()
    while waiting:
        for name in sorted(waiting):
            if lab.daemon_ready(name).exists():
                waiting.discard(name)
            elif not cgroup.processes(lab.cgroup / f"daemon-{name}"):
                raise LabError(f"cluster {name} ended while it was starting:\n{_log_end(lab, name)}")
        if waiting and time.monotonic() > limit:
            name = sorted(waiting)[0]
            raise LabError(f"cluster {name} is not ready after {READY_LIMIT_S:g} s:\n{_log_end(lab, name)}")
        pause.wait(POLL_S)


def _log_end(lab: LabNames, name: str, lines: int = 15) -> str:
    path = lab.daemon_log(name)
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else "(no log)"


def _cluster_status(lab: LabNames, plan: ClusterPlan) -> ClusterStatus:
    daemon = cgroup.processes(lab.cgroup / f"daemon-{plan.name}")
    pods = sum(len(cgroup.processes(lab.node(node.name).cgroup)) for node in plan.nodes)
    return ClusterStatus(plan.name, bool(daemon), lab.daemon_ready(plan.name).exists(), pods)
