# SPDX-License-Identifier: Apache-2.0
"""A lab is found by its name alone, so names must never overlap; and its addresses are those of the walkthrough."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.faults import UnknownPlaceError, plan_cut
from lab.names import LabNameError, cgroup2_mount, lab_names
from lab.topology import KOORNACHT, NODES, TION


@pytest.mark.parametrize("name", ["", "a-b", "A", "1a", "a" * 13, "a/b", "..", "a b"])
def test_names_that_could_overlap_or_escape_are_refused(name: str) -> None:
    with pytest.raises(LabNameError):
        lab_names(name)


def test_no_labs_names_begin_with_anothers() -> None:
    one, two = lab_names("lab"), lab_names("lab2")
    assert not two.netns_prefix.startswith(one.netns_prefix)
    assert not str(two.directory).startswith(f"{one.directory}/")


def test_the_plan_is_the_walkthroughs() -> None:
    assert [node.name for node in KOORNACHT.nodes] == [
        "koornacht-control-plane",
        "koornacht-worker",
        "koornacht-worker2",
    ]
    assert (TION.pod_cidr, TION.service_cidr, TION.dns_address) == ("10.2.0.0/16", "172.20.2.0/24", "172.20.2.10")
    assert [node.address for node in NODES] == [f"172.18.0.{host}" for host in range(2, 10)]


def test_the_version_two_hierarchy_is_found_in_a_hybrid_layout(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n")
    assert cgroup2_mount(mounts) == Path("/sys/fs/cgroup/unified")
    mounts.write_text("proc /proc proc rw 0 0\n")
    assert cgroup2_mount(mounts).name == ".cgroup2"


def test_cutting_two_clusters_leaves_each_whole() -> None:
    pairs = plan_cut("koornacht", "tion")
    assert len(pairs) == 18
    assert ("172.18.0.2", "172.18.0.5") in pairs
    assert ("172.18.0.5", "172.18.0.2") in pairs
    assert ("172.18.0.2", "172.18.0.3") not in pairs


def test_cutting_one_node_off_means_from_everybody() -> None:
    assert len(plan_cut("tion-worker", None)) == 14


def test_an_unknown_place_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownPlaceError, match="koornacht-worker2"):
        plan_cut("nowhere", None)
