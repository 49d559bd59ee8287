# SPDX-License-Identifier: Apache-2.0
"""Where one lab keeps everything, so that all of it can be found and removed by the lab's name alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path("/run/clustermesh-lab")
NETNS_ROOT: Final = Path("/run/netns")
CGROUP_PARENT: Final = "clustermesh-lab"
DEFAULT_NAME: Final = "mesh"
NAME: Final = re.compile(r"[a-z][a-z0-9]{0,11}")


class LabNameError(ValueError):
    """A lab's name becomes part of namespace names; a hyphen in it could make two labs' names overlap."""


@dataclass(frozen=True, slots=True)
class NodeNames:
    """The names and paths of one node of a lab."""

    directory: Path
    netns: str
    cgroup: Path

    @property
    def system_cgroup(self) -> Path:
        """Where processes of the node are that are no pod's."""
        return self.cgroup / "system"

    @property
    def bpffs(self) -> Path:
        return self.directory / "bpf"

    @property
    def root(self) -> Path:
        """What a hostPath of this node is relative to."""
        return self.directory / "root"

    @property
    def pods(self) -> Path:
        return self.directory / "pods"


@dataclass(frozen=True, slots=True)
class LabNames:
    """The names and paths of one lab; nothing in it touches the machine."""

    name: str
    cgroup_mount: Path

    @property
    def directory(self) -> Path:
        return ROOT / self.name

    @property
    def cgroup(self) -> Path:
        return self.cgroup_mount / CGROUP_PARENT / self.name

    @property
    def netns_prefix(self) -> str:
        return f"cml-{self.name}-"

    @property
    def underlay(self) -> str:
        return f"{self.netns_prefix}underlay"

    def node(self, name: str) -> NodeNames:
        return NodeNames(self.directory / "nodes" / name, f"{self.netns_prefix}{name}", self.cgroup / name)

    def pod_netns(self, uid: str) -> str:
        return f"{self.netns_prefix}pod-{uid[:13]}"

    def kubeconfig(self, name: str) -> Path:
        """A cluster's name, or `global` for the contexts of all."""
        return self.directory / f"{name}.yaml"

    @property
    def size(self) -> Path:
        """The file that says how many clusters the lab has."""
        return self.directory / "size"

    @property
    def cni(self) -> Path:
        """The file that says how the lab's pods reach their nodes."""
        return self.directory / "cni"

    @property
    def images(self) -> Path:
        """The link to a directory with unpacked images, if the lab was given one."""
        return self.directory / "images"

    def daemon_log(self, cluster: str) -> Path:
        return self.directory / f"{cluster}.log"

    def daemon_ready(self, cluster: str) -> Path:
        return self.directory / f"{cluster}.ready"


def lab_names(name: str = DEFAULT_NAME) -> LabNames:
    """The names of the lab of this name, whether it exists or not. Raises: LabNameError."""
    if not NAME.fullmatch(name):
        raise LabNameError(f"lab name {name!r}: use one to twelve lower-case letters and digits, a letter first")
    return LabNames(name, cgroup2_mount())


def cgroup2_mount(mounts: Path = Path("/proc/mounts")) -> Path:
    """Where the cgroup v2 hierarchy is mounted, in hybrid layouts too; the lab's own place where nothing mounts one."""
    for line in mounts.read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2" and not where.startswith(str(ROOT)):
            return Path(where)
    return ROOT / ".cgroup2"


def netns_path(name: str) -> Path:
    return NETNS_ROOT / name


def existing_labs() -> list[str]:
    """Names of all labs that left anything in the directory of labs or among the network namespaces."""
    found = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")} if ROOT.is_dir() else set()
    if NETNS_ROOT.is_dir():
        found |= {path.name.split("-")[1] for path in NETNS_ROOT.iterdir() if path.name.startswith("cml-")}
    return sorted(found)
