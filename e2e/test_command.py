# SPDX-License-Identifier: Apache-2.0
"""What a new user does wrong with the command: one line that says what, and an exit code that a script may rely on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.mesh import CLUSTERS, SYSTEM, Cluster, Mesh, Result, run

FAILED, USAGE, DEGRADED, TIMEOUT, REFUSED = 1, 2, 3, 5, 6
BOTH = ("--context", "kind-koornacht", "--destination-context", "kind-tion")
CONFIG = ("configmap", "-n", SYSTEM, "clustermesh-config")


def assert_one_line(done: Result, code: int, *words: str) -> None:
    lines = done.stderr.strip().splitlines()
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("Error: ")
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("status --context nope", FAILED, ("nope",)),
        ("enable --context nope", FAILED, ("nope",)),
        ("connect --context kind-koornacht --destination-context nope", FAILED, ("nope",)),
        ("disconnect --context kind-koornacht --destination-context nope", FAILED, ("nope",)),
        ("status --kubeconfig /nowhere", FAILED, ("/nowhere",)),
        ("status -n nowhere", FAILED, ("not enabled", "clustermesh enable")),
        ("status -n nowhere --wait --wait-duration 1", TIMEOUT, ("not enabled", "timeout")),
        ("connect -n nowhere --destination-context kind-tion", FAILED, ("not enabled", "clustermesh enable")),
        ("disconnect hoth", REFUSED, ("hoth is not a peer",)),
        ("disconnect", USAGE, ("PEER", "--destination-context")),
        ("disconnect tion --destination-context kind-tion", USAGE, ("PEER", "--destination-context")),
        ("connect --destination-context kind-tion --connection-mode sideways", USAGE, ("sideways", "bidirectional")),
        ("connect --destination-context kind-tion --destination-endpoint xyz", REFUSED, ("xyz", "HOST:PORT")),
        ("enable --service-type Carrier", REFUSED, ("Carrier", "NodePort")),
        ("enable --cluster-id 9", REFUSED, ("already has the id 1",)),
        ("enable --cluster-id 900", REFUSED, ("255",)),
        ("enable --cluster-name hoth", REFUSED, ("already has the name koornacht",)),
        ("connect --context kind-koornacht --destination-context kind-koornacht", REFUSED, ("koornacht",)),
        ("status --output xml", USAGE, ("xml",)),
        ("connect --context kind-koornacht", USAGE, ("--destination-context",)),
        ("frobnicate", USAGE, ("frobnicate",)),
    ],
)
def test_a_wrong_command_is_one_line_and_changes_nothing(
    mesh: Mesh, command: str, code: int, words: tuple[str, ...]
) -> None:
    before = {cluster: versions(mesh, cluster) for cluster in CLUSTERS}
    assert_one_line(mesh.clustermesh(*command.split(), check=False), code, *words)
    assert {cluster: versions(mesh, cluster) for cluster in CLUSTERS} == before


def test_a_kubeconfig_that_is_no_yaml_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text("{not yaml")
    assert_one_line(run(["clustermesh", "status"], check=False, KUBECONFIG=str(path)), FAILED, str(path))


def test_an_api_server_that_does_not_answer_is_one_line(mesh: Mesh, tmp_path: Path) -> None:
    document = yaml.safe_load(mesh.state.kubeconfig("koornacht").read_text())
    document["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(document))
    assert_one_line(run(["clustermesh", "status"], check=False, KUBECONFIG=str(path)), FAILED, "127.0.0.1")


# -- enable


def versions(mesh: Mesh, cluster: Cluster) -> Mapping[str, str]:
    """The resource version of everything the mesh is made of; pods and what only shows that time passes left out."""
    kinds = (
        "secrets,configmaps,services,serviceaccounts,clusterroles,clusterrolebindings,roles,rolebindings,"
        "customresourcedefinitions"
    )
    found = {}
    for item in mesh.get(cluster, kinds, "-n", SYSTEM)["items"]:
        found[f"{item['kind']}/{item['metadata']['name']}"] = item["metadata"]["resourceVersion"]
    for item in mesh.get(cluster, "daemonsets,deployments", "-n", SYSTEM)["items"]:
        found[f"{item['kind']}/{item['metadata']['name']}"] = f"generation {item['metadata']['generation']}"
    return found


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_enabling_again_changes_nothing(whole: Mesh, cluster: Cluster) -> None:
    before = versions(whole, cluster)
    assert {"Secret/clustermesh-ca", "Deployment/clustermesh-apiserver"} <= set(before)
    whole.clustermesh("enable", "--context", f"kind-{cluster}", "--service-type", "NodePort")
    assert versions(whole, cluster) == before


def test_connecting_again_changes_nothing(whole: Mesh) -> None:
    before = {cluster: versions(whole, cluster) for cluster in CLUSTERS}
    whole.clustermesh("connect", *BOTH)
    assert {cluster: versions(whole, cluster) for cluster in CLUSTERS} == before


def test_a_dry_run_of_connect_and_of_enable_changes_nothing(whole: Mesh) -> None:
    whole.clustermesh("disconnect", *BOTH)
    try:
        before = {cluster: versions(whole, cluster) for cluster in CLUSTERS}
        whole.clustermesh("connect", *BOTH, "--dry-run")
        shown = whole.clustermesh("enable", "--context", "kind-tion", "--dry-run").stdout
        kinds = {document["kind"] for document in yaml.safe_load_all(shown)}
        assert {"DaemonSet", "Deployment", "CustomResourceDefinition"} <= kinds
        assert {cluster: versions(whole, cluster) for cluster in CLUSTERS} == before
    finally:
        whole.clustermesh("connect", *BOTH)


# -- connect, between clusters that cannot be one mesh


def patch_config(mesh: Mesh, **changed: str) -> None:
    data = {name.replace("_", "-"): value for name, value in changed.items()}
    mesh.kubectl("tion", "patch", *CONFIG, "--type=merge", "-p", json.dumps({"data": data}))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"cluster_id": "1"}, ("koornacht", "tion", "both have the id 1")),
        ({"cluster_name": "koornacht"}, ("both named koornacht",)),
        ({"max_connected_clusters": "511"}, ("511", "255", "max-connected-clusters")),
    ],
)
def test_connect_refuses_clusters_that_cannot_be_told_apart(
    whole: Mesh, changed: dict[str, str], words: tuple[str, ...]
) -> None:
    own: dict[str, Any] = whole.get("tion", *CONFIG)["data"]
    before = versions(whole, "koornacht")
    try:
        patch_config(whole, **changed)
        assert_one_line(whole.clustermesh("connect", *BOTH, check=False), REFUSED, *words)
        assert versions(whole, "koornacht") == before
    finally:
        patch_config(whole, **{name: own[name.replace("_", "-")] for name in changed})


def test_connect_refuses_clusters_whose_pod_networks_overlap(whole: Mesh) -> None:
    node = """
apiVersion: v1
kind: Node
metadata: {name: borrowed}
spec: {podCIDR: 10.1.2.128/25, podCIDRs: [10.1.2.128/25]}
"""
    before = versions(whole, "koornacht")
    try:
        whole.apply("tion", node)
        done = whole.clustermesh("connect", *BOTH, check=False)
        assert_one_line(done, REFUSED, "overlap", "10.1.2.0/24", "10.1.2.128/25", "koornacht", "tion")
        assert versions(whole, "koornacht") == before
    finally:
        whole.delete("tion", node)


# -- disable


def test_a_disabled_cluster_is_out_of_the_mesh_and_comes_back(whole: Mesh) -> None:
    try:
        whole.clustermesh("disable", "--context", "kind-tion")
        whole.wait_until(
            "no program of the mesh runs in tion",
            lambda: not whole.get("tion", "pods", "-n", SYSTEM, "-l", "app.kubernetes.io/part-of=clustermesh")["items"],
        )
        assert_one_line(whole.clustermesh("status", "--context", "kind-tion", check=False), FAILED, "not enabled")
        assert_one_line(whole.clustermesh("connect", *BOTH, check=False), FAILED, "not enabled", "kind-tion")
        done = whole.clustermesh("status", check=False)
        whole.wait_until(
            "koornacht says that it is degraded",
            lambda: whole.clustermesh("status", check=False).returncode == DEGRADED,
            40,
        )
        assert "Traceback" not in done.stderr
        again = whole.clustermesh("disable", "--context", "kind-tion")
        assert "Removed 0 objects" in again.stdout
        whole.clustermesh("disconnect", "tion", "--context", "kind-koornacht")
        whole.wait_for_answers("koornacht", "Koornacht")
    finally:
        whole.clustermesh("enable", "--context", "kind-tion", "--service-type", "NodePort")
        whole.clustermesh("connect", *BOTH)
    whole.expect_whole()
