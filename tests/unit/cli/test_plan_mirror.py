# SPDX-License-Identifier: Apache-2.0
"""Whom agents are told to read, with the mirror and without, and what switching changes."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import yaml

from clustermesh_cli.cluster_facts import is_mirrored
from clustermesh_cli.commands.disable import workloads
from clustermesh_cli.commands.enable import EnableOptions, plan_objects
from clustermesh_cli.plan.cluster_identity import ClusterIdentity
from clustermesh_cli.plan.exposure import Exposure, ExposureWish
from clustermesh_cli.plan.facts import ClusterFacts, StoreAccess
from clustermesh_cli.plan.peering import agent_files, find_real_files, keep_lists, real_files
from meshmodel.names import ClusterId, ClusterName

SOUTH = ClusterFacts(
    context="kind-south",
    name=ClusterName("south"),
    id=ClusterId(2),
    maximum=255,
    ca_pem=b"CA of south",
    access=StoreAccess("NodePort", ("192.0.2.9",), 32379),
    pod_cidrs=(),
)
REAL = {name: value for name, value in real_files(SOUTH).items() if value is not None}
DEFAULTS = EnableOptions("mesh-system", None, None, ExposureWish(), (), "apiserver", "agent")
EXPOSURE = Exposure("NodePort", 32379)
NORTH = ClusterIdentity(ClusterName("north"), ClusterId(1), 255)


def merged(data: Mapping[str, str], patch: Mapping[str, str | None]) -> dict[str, str]:
    """What a merge patch leaves."""
    return {name: value for name, value in {**data, **patch}.items() if value is not None}


def endpoint(data: Mapping[str, str]) -> str:
    return str(yaml.safe_load(base64.b64decode(data["south"]))["endpoints"][0])


def planned(options: EnableOptions, config: dict[str, str]) -> tuple[dict[str, str], list[str], list[str]]:
    """The ConfigMap's data, and the arguments of apiserver and agent."""
    objects = plan_objects(options, NORTH, config, EXPOSURE)
    arguments: dict[str, list[str]] = {}
    for obj in objects:
        if obj["kind"] in ("Deployment", "DaemonSet"):
            container: Any = obj["spec"]["template"]["spec"]["containers"][0]
            arguments[obj["metadata"]["name"]] = container["args"]
    data = next(obj["data"] for obj in objects if obj["metadata"]["name"] == "clustermesh-config")
    return data, arguments["clustermesh-apiserver"], arguments["clustermesh-agent"]


def test_behind_a_mirror_agents_read_their_own_store_as_its_local_user() -> None:
    files = merged({}, agent_files(REAL, is_mirrored=True, namespace="mesh-system"))
    assert set(files) == {"south"}
    document = yaml.safe_load(base64.b64decode(files["south"]))
    assert document == {
        "endpoints": ["https://clustermesh-apiserver.mesh-system.svc:2379"],
        "trusted-ca-file": "/var/lib/clustermesh/local/ca.crt",
        "cert-file": "/var/lib/clustermesh/local/tls.crt",
        "key-file": "/var/lib/clustermesh/local/tls.key",
    }


def test_without_a_mirror_agents_get_the_peers_own_files() -> None:
    assert agent_files(REAL, is_mirrored=False, namespace="kube-system") == REAL


def test_switching_to_and_fro_ends_where_it_began() -> None:
    direct = dict(REAL)
    real = find_real_files({}, direct)
    mirrored = merged(direct, agent_files(real, is_mirrored=True, namespace="kube-system"))
    assert endpoint(mirrored) == "https://clustermesh-apiserver.kube-system.svc:2379"
    back = merged(mirrored, agent_files(find_real_files(real, mirrored), is_mirrored=False, namespace="kube-system"))
    assert back == direct
    assert endpoint(back) == "https://south.mesh.cilium.io:32379"


def test_a_mirrored_peers_file_is_never_taken_for_a_real_one() -> None:
    mirrored = merged({}, agent_files(REAL, is_mirrored=True, namespace="kube-system"))
    assert find_real_files({}, mirrored) == {}


LISTS = "networks: [10.2.0.0/16]  # what south told us\nnode-networks:\n- 172.18.0.0/24\n"


@pytest.mark.parametrize("is_mirrored", [True, False])
def test_what_a_person_lets_a_peer_own_stays_when_it_is_connected_again(is_mirrored: bool) -> None:
    """Else the next `connect` or `enable` lets the peer own everything again, without a word."""
    files = agent_files(REAL, is_mirrored=is_mirrored, namespace="kube-system")
    written = base64.b64decode(files["south"] or "") + LISTS.encode()
    edited = merged({}, {**files, "south": base64.b64encode(written).decode()})
    assert keep_lists(edited, files) == {**files, "south": edited["south"]}
    elsewhere = {**edited, "south": base64.b64encode(b"endpoints: ['https://old:1']\n" + LISTS.encode()).decode()}
    kept = yaml.safe_load(base64.b64decode(keep_lists(elsewhere, files)["south"] or ""))
    assert kept == yaml.safe_load(written)


@pytest.mark.parametrize("before", [{}, {"south": ""}, {"south": "LSBh"}, {"south": "YTogWw=="}, {"south": "gIA="}])
def test_files_without_lists_are_as_planned(before: dict[str, str]) -> None:
    files = agent_files(REAL, is_mirrored=True, namespace="kube-system")
    assert keep_lists(before, files) == files
    assert keep_lists({name: value for name, value in files.items() if value}, files) == files


@pytest.mark.parametrize(
    ("flag", "before", "expected"),
    [
        (None, None, True),
        (None, "true", True),
        (None, "false", False),
        (True, "false", True),
        (False, "true", False),
        (False, None, False),
    ],
)
def test_the_mirror_is_on_unless_chosen_otherwise_and_the_choice_is_remembered(
    flag: bool | None, before: str | None, expected: bool
) -> None:
    config = {} if before is None else {"enable-kvstoremesh": before}
    options = EnableOptions("mesh-system", None, None, ExposureWish(), (), "apiserver", "agent", mirror=flag)
    data, apiserver, agent = planned(options, config)
    assert data["enable-kvstoremesh"] == str(expected).lower()
    assert is_mirrored(data) is expected
    assert ("--mirror" in apiserver, "--no-mirror" in apiserver) == (expected, not expected)
    assert "--local-etcd=https://clustermesh-apiserver.mesh-system.svc:2379" in agent


def test_a_cluster_that_was_enabled_before_there_was_a_mirror_is_connected_without_one() -> None:
    assert not is_mirrored({"cluster-name": "north", "cluster-id": "1"})


def test_disable_removes_the_very_workloads_that_enable_applies_or_prints() -> None:
    def names(objects: list[dict[str, Any]]) -> set[tuple[str, str]]:
        kept = ("CustomResourceDefinition", "ConfigMap")
        return {(obj["kind"], obj["metadata"]["name"]) for obj in objects if obj["kind"] not in kept}

    applied = plan_objects(replace(DEFAULTS, relay=True), NORTH, {}, EXPOSURE, with_certificates=True)
    assert names(workloads("mesh-system")) == names(applied)
    assert {obj["metadata"].get("namespace", "mesh-system") for obj in workloads("mesh-system")} == {"mesh-system"}
