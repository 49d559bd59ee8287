# SPDX-License-Identifier: Apache-2.0
"""What `pip install` of the wheel brings is enough to run every program."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from agent.datapath.ipv6_calls import IPV6_OBJECT
from agent.datapath.loader import OBJECTS, SOCKET_OBJECT, STACK_OBJECT
from tests.integration.agent.agent_process_world import serve_kubernetes
from tests.integration.datapath.lone_node import lone_node
from tests.integration.installed.distribution import REPOSITORY, build, build_wheel, copy_tracked, install

PROGRAMS = ("clustermesh", "clustermesh-agent", "clustermesh-apiserver", "clustermesh-relay")
NOT_IN_IT = ("deploy/chart/", "deploy/images/", "deploy/kind/", "deploy/systemd/")
DEVELOPERS_OWN = {".md"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("distribution"))


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(wheel, tmp_path_factory.mktemp("environment"))


def _run(programs: Path, name: str, *words: str, stdin: bytes = b"") -> str:
    command: Sequence[str] = [str(programs / name), *words]
    # from the root: the repository is not on the path
    ended = subprocess.run(command, input=stdin, capture_output=True, check=False, cwd="/", timeout=60)
    assert ended.returncode == 0, ended.stderr.decode()
    return ended.stdout.decode()


def test_the_wheel_has_every_file_of_its_packages_and_the_bpf_objects(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        found = set(archive.namelist())
    packages = {name.split("/")[0] for name in found if ".dist-info/" not in name}
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    tracked = {name for name in listed.splitlines() if name.split("/")[0] in packages and (REPOSITORY / name).exists()}
    objects = {f"agent/datapath/bpf/{name}" for name in (*OBJECTS, STACK_OBJECT, SOCKET_OBJECT, IPV6_OBJECT)}
    missing = {name for name in tracked - found if Path(name).suffix not in DEVELOPERS_OWN}
    assert {name for name in missing if not name.startswith(NOT_IN_IT)} == set()
    assert {name for name in found - tracked if ".dist-info/" not in name} == objects


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_starts(programs: Path, program: str) -> None:
    assert _run(programs, program, "--version").startswith(f"{program} ")
    assert program in _run(programs, program, "--help")


async def test_the_command_has_the_manifests(programs: Path, tmp_path: Path) -> None:
    async with serve_kubernetes(tmp_path):
        words = ("enable", "--print", "--with-relay", "--cluster-name", "north", "--kubeconfig")
        text = await asyncio.to_thread(_run, programs, "clustermesh", *words, str(tmp_path / "kubeconfig"))
    kinds = [obj["kind"] for obj in yaml.safe_load_all(text)]
    assert kinds.count("CustomResourceDefinition") == len(list((REPOSITORY / "deploy/crds").iterdir()))
    assert {"DaemonSet", "Deployment", "ClusterRole", "Service"} <= set(kinds)


def test_the_relay_has_the_page(programs: Path) -> None:
    served = _run(programs, "python", "-c", "from relay.page.files import page_files; print(*page_files())").split()
    assert {path.name for path in (REPOSITORY / "relay/page/static").iterdir()} <= set(served)


@pytest.mark.root
def test_the_kernel_takes_the_bpf_objects(programs: Path, tmp_path: Path) -> None:
    load = (
        "import pickle, sys\n"
        "from agent.datapath.loader import Datapath\n"
        "datapath = Datapath(pickle.load(sys.stdin.buffer))\n"
        "print(len(list(datapath.open().backends.items())), datapath.delivery_failure)"
    )
    sizes = {"mesh_ct_tcp": 4096, "mesh_ct_other": 4096}
    with lone_node("installed", tmp_path, max_entries=sizes) as config:
        assert _run(programs, "python", "-c", load, stdin=pickle.dumps(config)).split() == ["0"]


def test_without_a_compiler_no_wheel_is_made_that_lacks_the_objects(tmp_path: Path) -> None:
    copy_tracked(tmp_path / "clone", with_objects=False)
    (empty := tmp_path / "empty").mkdir()
    for what in ("build_wheel", "build_sdist"):
        made = build(what, tmp_path / "clone", tmp_path / what, PATH=str(empty))
        assert made.returncode != 0
        assert "the BPF objects cannot be compiled: install clang" in made.stderr
        assert not list((tmp_path / what).iterdir())
