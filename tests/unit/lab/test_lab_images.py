# SPDX-License-Identifier: Apache-2.0
"""As whom a container of a real image runs, what its volumes let it read, and where the image comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lab.devkube.kubelet.atomicdir import write_directory
from lab.devkube.kubelet.privileges import DEFAULT_CAPABILITIES, setpriv_words
from lab.devkube.kubelet.volumes import File
from lab.images.unpacked import find_unpacked


def words(pod: dict[str, Any], container: dict[str, Any]) -> list[str]:
    return setpriv_words({"spec": {"securityContext": pod}}, {"securityContext": container})


def test_a_container_that_says_nothing_is_root_with_what_runtimes_give() -> None:
    kept = ",".join(f"+{name.lower()}" for name in DEFAULT_CAPABILITIES)
    assert words({}, {}) == ["setpriv", f"--bounding-set=-all,{kept}", "--inh-caps=-all", "--clear-groups", "--"]


def test_a_container_that_drops_all_keeps_what_it_adds() -> None:
    context = {"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "BPF"]}, "allowPrivilegeEscalation": False}
    bounds = "--bounding-set=-all,+bpf,+net_admin"
    assert words({}, context) == ["setpriv", bounds, "--inh-caps=-all", "--clear-groups", "--no-new-privs", "--"]


def test_a_capability_that_is_dropped_by_name_is_the_only_one_that_goes() -> None:
    bounds = words({}, {"capabilities": {"drop": ["NET_RAW"]}})[1].removeprefix("--bounding-set=-all,").split(",")
    assert set(bounds) == {f"+{name.lower()}" for name in DEFAULT_CAPABILITIES} - {"+net_raw"}


def test_the_pods_user_groups_and_none_of_roots_are_taken() -> None:
    found = words({"runAsUser": 7, "runAsGroup": 8, "fsGroup": 9}, {})
    assert found[3:] == ["--groups=9", "--regid=8", "--reuid=7", "--"]


def test_the_containers_own_user_goes_before_the_pods_and_nobodys_group_is_roots() -> None:
    assert words({"runAsUser": 7}, {"runAsUser": 0})[3:] == ["--clear-groups", "--regid=0", "--reuid=0", "--"]


@pytest.mark.root
def test_the_group_of_a_volume_may_read_what_is_roots_alone(tmp_path: Path) -> None:
    files = {"tls.key": File(b"secret", 0o400)}
    assert write_directory(tmp_path / "v", files, group=12345)
    found = (tmp_path / "v" / "tls.key").stat()
    assert (found.st_mode & 0o777, found.st_gid) == (0o440, 12345)
    assert not write_directory(tmp_path / "v", files, group=12345), "nothing changed"


def test_an_unpacked_image_is_found_by_its_name_without_registry_and_tag(tmp_path: Path) -> None:
    (tmp_path / "clustermesh-agent" / "root").mkdir(parents=True)
    config = {"Entrypoint": ["clustermesh-agent"], "Cmd": None, "Env": ["PATH=/opt/bin:/bin", "A=b=c"]}
    (tmp_path / "clustermesh-agent" / "config.json").write_text(json.dumps(config))
    found = find_unpacked(tmp_path, "registry.example:5000/mesh/clustermesh-agent:1@sha256:ab")
    assert found is not None
    assert (found.entrypoint, found.arguments) == (("clustermesh-agent",), ())
    assert found.environment == {"PATH": "/opt/bin:/bin", "A": "b=c"}
    assert found.root == str(tmp_path / "clustermesh-agent" / "root")
    assert find_unpacked(tmp_path, "clustermesh-relay") is None
