# SPDX-License-Identifier: Apache-2.0
"""A lab can be killed anywhere at any moment; its name is enough to remove all of it, and only it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress

import pytest
from lab_harness import Eventually, Kubectl
from lab_objects import web

from lab import cgroup, cleanup, mesh, netns
from lab.names import LabNames, lab_names
from lab.network import build_underlay
from lab.topology import CLUSTERS
from tests.support.labs import lab_name

pytestmark = pytest.mark.root


@pytest.fixture
def other() -> Iterator[LabNames]:
    lab = lab_names(lab_name("u"))
    yield lab
    cleanup.remove_lab(lab)


def test_two_labs_run_side_by_side_and_one_goes_without_the_other(
    lab: LabNames, other: LabNames, kubectl: Kubectl
) -> None:
    mesh.up(other)
    assert mesh.is_running(lab)
    assert Kubectl(other, "tion")("get", "nodes", "-o", "name").split() == [
        "node/tion-control-plane", "node/tion-worker", "node/tion-worker2",
    ]  # fmt: skip
    cleanup.remove_lab(other)
    assert cleanup.leftovers(other) == []
    assert mesh.is_running(lab)
    assert kubectl("get", "nodes", "-o", "name").split()[0] == "node/koornacht-control-plane"


def test_a_lab_that_is_up_is_left_as_it_is(lab: LabNames) -> None:
    before = cgroup.processes(lab.cgroup / "daemon-koornacht")
    mesh.up(lab)
    assert cgroup.processes(lab.cgroup / "daemon-koornacht") == before


def kill(pids: list[int]) -> None:
    """The processes are killed; a command that a daemon ran for a moment may have ended by itself."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_nothing_is_left_after_daemons_and_pods_were_killed(other: LabNames, eventually: Eventually) -> None:
    mesh.up(other)
    kubectl = Kubectl(other, "koornacht")
    kubectl.apply(*web("web", "hello"))
    kubectl("rollout", "status", "deployment/web", "--timeout=30s")
    for plan in CLUSTERS:
        kill(cgroup.processes(other.cgroup / f"daemon-{plan.name}"))
    eventually(lambda: not mesh.is_running(other))
    left = cgroup.processes(other.cgroup)
    assert left, "pods outlive the daemon"
    kill(left[: len(left) // 2])
    assert cleanup.leftovers(other)
    cleanup.remove_lab(other)
    assert cleanup.leftovers(other) == []


def test_a_lab_whose_daemons_died_comes_up_anew(other: LabNames, eventually: Eventually) -> None:
    mesh.up(other)
    kill(cgroup.processes(other.cgroup / "daemon-tion"))
    eventually(lambda: not mesh.is_running(other))
    mesh.up(other)
    assert mesh.is_running(other)


@pytest.mark.parametrize("built", [0, 1, 2, 3])
def test_a_half_built_lab_is_removed_from_every_step(other: LabNames, built: int) -> None:
    """Steps: the directory, its file system, half of the namespaces, all of the network."""
    steps = [
        lambda: other.directory.mkdir(parents=True),
        lambda: subprocess.run(["mount", "-t", "tmpfs", "none", str(other.directory)], check=True),
        lambda: netns.create(other.node("koornacht-worker").netns),
        lambda: (cgroup.ensure(other.node("tion-worker").cgroup), build_underlay(other, CLUSTERS[1:])),
    ]
    for step in steps[: built + 1]:
        step()
    assert cleanup.leftovers(other)
    cleanup.remove_lab(other)
    assert cleanup.leftovers(other) == []
    cleanup.remove_lab(other)


def test_a_lab_that_cannot_come_up_says_why_and_leaves_nothing(
    other: LabNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mesh, "_start_daemon", lambda lab, plan: None)
    with pytest.raises(mesh.LabError, match="ended while it was starting"):
        mesh.up(other)
    assert cleanup.leftovers(other) == []


def test_a_lab_listens_nowhere_but_on_loopback(lab: LabNames) -> None:
    pids = {pid for plan in CLUSTERS for pid in cgroup.processes(lab.cgroup / f"daemon-{plan.name}")}
    shown = subprocess.run(["ss", "-Hltunp"], text=True, capture_output=True, check=True).stdout
    mine = [line.split()[4] for line in shown.splitlines() if any(f"pid={pid}," in line for pid in pids)]
    assert len(mine) == len(CLUSTERS)
    assert all(address.startswith("127.0.0.1:") for address in mine)
