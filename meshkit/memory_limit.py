# SPDX-License-Identifier: Apache-2.0
"""How much memory this process may use: its machine's, or what its control groups allow."""

from __future__ import annotations

import os
from pathlib import Path

PROC, CONTROL_GROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def memory_bytes(proc: Path = PROC, control_groups: Path = CONTROL_GROUPS) -> int:
    """The least of these. A limit that cannot be read counts as none. Source: cgroup-v2.rst, memory.max; memory.rst of v1."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for kind, path in _groups(proc):
        base, name = (control_groups, "memory.max") if kind == "" else (control_groups / kind, "memory.limit_in_bytes")
        group = path.strip("/")
        while True:
            limit = _read(base / group / name)
            if limit:
                found.append(limit)
            if not group:
                break
            group = group.rpartition("/")[0]
    return min(found)


def _groups(proc: Path) -> list[tuple[str, str]]:
    """Controller and path of the groups that limit memory; no controller: the one hierarchy of version 2."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    parts = [line.split(":", 2) for line in lines]
    return [
        ("memory" if "memory" in controllers else "", path)
        for _, controllers, path in (part for part in parts if len(part) == 3)
        if not controllers or "memory" in controllers.split(",")
    ]


def _read(path: Path) -> int:
    """0: none, or `max`."""
    try:
        text = path.read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdecimal() else 0
