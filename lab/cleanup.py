# SPDX-License-Identifier: Apache-2.0
"""Remove all that a lab is, found by its name: works from any half-built or half-killed state, twice in a row too."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from lab import cgroup, netns
from lab.names import NETNS_ROOT, ROOT, LabNames, existing_labs, lab_names


def remove_lab(lab: LabNames) -> None:
    """Processes, namespaces, mounts, pins, control groups and files of this lab are gone."""
    cgroup.kill(lab.cgroup)
    _remove_namespaces(lab.netns_prefix)
    unmount_below(lab.directory)
    cgroup.remove(lab.cgroup)
    with suppress(OSError):
        lab.cgroup.parent.rmdir()
    shutil.rmtree(lab.directory, ignore_errors=True)
    _remove_root()


def remove_all_labs() -> list[str]:
    """Every lab on this machine is gone; returns their names."""
    names = existing_labs()
    for name in names:
        remove_lab(lab_names(name))
    return names


def leftovers(lab: LabNames) -> list[str]:
    """What still carries the lab's name on this machine; empty after `remove_lab`."""
    found = [f"process {pid}" for pid in cgroup.processes(lab.cgroup)]
    found += [f"namespace {path.name}" for path in _namespaces(lab.netns_prefix)]
    found += [f"mount {where}" for where in mounts_below(lab.directory)]
    return found + [str(path) for path in (lab.cgroup, lab.directory) if path.exists()]


def mounts_below(directory: Path, table: Path = Path("/proc/self/mountinfo")) -> list[str]:
    """Mount points at or below the directory, the latest first."""
    prefix = str(directory)
    points = [line.split()[4] for line in table.read_text().splitlines()]
    return [point for point in reversed(points) if point == prefix or point.startswith(prefix + "/")]


def unmount_below(directory: Path) -> None:
    for point in mounts_below(directory):
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)


def _namespaces(prefix: str) -> list[Path]:
    if not NETNS_ROOT.is_dir():
        return []
    return sorted(path for path in NETNS_ROOT.iterdir() if path.name.startswith(prefix))


def _remove_namespaces(prefix: str) -> None:
    for path in _namespaces(prefix):
        netns.remove(path.name)


def _remove_root() -> None:
    with suppress(OSError):
        own = ROOT / ".cgroup2"
        if own.exists() and not any(child.is_dir() for child in own.iterdir()):
            subprocess.run(["umount", str(own)], check=False, capture_output=True)
            own.rmdir()
        ROOT.rmdir()
