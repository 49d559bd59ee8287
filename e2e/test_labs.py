# SPDX-License-Identifier: Apache-2.0
"""Labs by themselves: two side by side, and one that was killed in the middle of everything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.faults import kill
from e2e.mesh import CLUSTERS, SYSTEM, Mesh, lab, tear_down
from lab import cgroup, cleanup
from lab.names import existing_labs, lab_names


@pytest.fixture
def second(mesh: Mesh) -> Iterator[str]:
    """The name of a lab that is up beside the shared one, nothing deployed in it."""
    name = f"{mesh.names.name}b"
    try:
        lab(name, "up")
        yield name
    finally:
        tear_down(name)


def processes_that_name(name: str) -> list[int]:
    """Processes of the machine with the lab's name in their command line; this one and its like are not meant."""
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit() and int(directory.name) != os.getpid():
            try:
                words = (directory / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(name.encode() == word or f"/{name}/".encode() in word for word in words):
                found.append(int(directory.name))
    return found


def everything_of(name: str) -> list[str]:
    """Whatever still carries the lab's name, looked for without the lab's own bookkeeping."""
    found = [f"process {pid}" for pid in processes_that_name(name)]
    found += [f"namespace {path.name}" for path in Path("/run/netns").glob(f"cml-{name}-*")]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [
        f"mount {line.split()[4]}" for line in mounts if f"/{name}/" in line or line.split()[4].endswith(f"/{name}")
    ]
    found += [str(path) for path in (Path("/run/clustermesh-lab", name), lab_names(name).cgroup) if path.exists()]
    return found


def test_two_labs_run_side_by_side_and_one_goes_without_the_other_noticing(whole: Mesh, second: str) -> None:
    other = Mesh(lab_names(second))
    assert {whole.names.name, second} <= set(existing_labs())
    for cluster in CLUSTERS:
        names = {n["metadata"]["name"] for n in other.get(cluster, "nodes")["items"]}
        assert names == {n["metadata"]["name"] for n in whole.get(cluster, "nodes")["items"]}, "the same mesh twice"
        assert not other.get(cluster, "pods")["items"], "and each its own"
    done = other.clustermesh("status", check=False)
    assert (done.returncode, "not enabled" in done.stderr) == (1, True)
    whole.expect_whole()
    lab(second, "down")
    assert not everything_of(second)
    whole.expect_whole()
    assert lab(second, "status", check=False).returncode == 1


def test_a_killed_lab_comes_up_as_new_and_is_removed_completely(mesh: Mesh, second: str) -> None:
    names = lab_names(second)
    other = Mesh(names)
    daemons = [names.cgroup / f"daemon-{cluster}" for cluster in CLUSTERS]
    kill([pid for daemon in daemons for pid in cgroup.processes(daemon)])
    lab(second, "up")
    other.clustermesh("enable", "--context", "kind-koornacht")
    part = "app.kubernetes.io/part-of=clustermesh"
    other.wait_until("pods of the mesh run", lambda: other.pods("koornacht", part, SYSTEM))
    kill([pid for daemon in daemons for pid in cgroup.processes(daemon)])
    assert everything_of(second), "pods outlive the daemons"
    assert lab(second, "status", check=False).returncode == 1
    lab(second, "down")
    assert not everything_of(second)
    assert not cleanup.leftovers(names)
    assert lab(second, "down").returncode == 0, "what is gone already is no error"
    mesh.expect_whole()


def test_what_enable_prints_is_a_whole_installation(second: str) -> None:
    """A Job among the objects makes the Secrets that the pods wait for; the second time nothing is left to do."""
    other = Mesh(lab_names(second))
    printed = other.clustermesh("enable", "--context", "kind-koornacht", "--print").stdout
    other.apply("koornacht", printed)
    other.kubectl(
        "koornacht", "-n", SYSTEM, "wait", "--for=condition=Complete", "job/clustermesh-certificates", "--timeout=60s"
    )
    assert other.clustermesh("status", "--context", "kind-koornacht", "--wait").stdout.rstrip().endswith("RESULT well")
    assert (
        "7 certificates were issued"
        in other.kubectl("koornacht", "-n", SYSTEM, "logs", "job/clustermesh-certificates").stdout
    )
    again = other.kubectl("koornacht", "apply", "-f", "-", input=printed).stdout
    assert " configured" not in again.replace("secret/", "")
    other.clustermesh("disable", "--context", "kind-koornacht")
    left = other.kubectl("koornacht", "-n", SYSTEM, "get", "all,secrets,roles", "-o", "name").stdout.split()
    assert not [name for name in left if "clustermesh" in name]
