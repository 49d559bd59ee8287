# SPDX-License-Identifier: Apache-2.0
"""A pod's limit is found in both versions of control groups, also that of a group above; else the machine's memory counts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meshkit.memory_limit import memory_bytes

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
LIMIT = 256 << 20


@pytest.mark.parametrize(
    ("membership", "file", "content", "expected"),
    [
        pytest.param("0::/\n", "memory.max", f"{LIMIT}\n", LIMIT, id="a pod, version 2"),
        pytest.param("0::/a/b\n", "a/b/memory.max", f"{LIMIT}\n", LIMIT, id="a unit of systemd"),
        pytest.param("0::/a/b\n", "a/memory.max", f"{LIMIT}\n", LIMIT, id="its slice"),
        pytest.param("0::/\n", "memory.max", "max\n", MACHINE, id="no limit"),
        pytest.param("0::/\n", "other", "", MACHINE, id="a file that is not there"),
        pytest.param(
            "5:cpu,cpuacct:/x\n4:memory:/x\n1:name=systemd:/x\n",
            "memory/x/memory.limit_in_bytes",
            f"{LIMIT}\n",
            LIMIT,
            id="version 1",
        ),
        pytest.param("4:memory:/x\n", "memory/memory.limit_in_bytes", f"{LIMIT}\n", LIMIT, id="a pod, version 1"),
        pytest.param("0::/\n", "memory.max", f"{MACHINE * 2}\n", MACHINE, id="more than there is"),
        pytest.param("nonsense", "memory.max", f"{LIMIT}\n", MACHINE, id="a file that cannot be understood"),
    ],
)
def test_the_least_limit_counts(tmp_path: Path, membership: str, file: str, content: str, expected: int) -> None:
    proc, control_groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text(membership)
    path = control_groups / file
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert memory_bytes(proc, control_groups) == expected


def test_without_control_groups_the_machine_counts(tmp_path: Path) -> None:
    assert memory_bytes(tmp_path, tmp_path) == MACHINE
