# SPDX-License-Identifier: Apache-2.0
"""enable, connect and disable: twice, for show, between clusters that cannot be one mesh, and back."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import yaml

from e2e.command import CONNECTION, DEGRADED, FAILED, REFUSED, assert_one_line, versions
from e2e.mesh import CLUSTERS, SYSTEM, Cluster, Mesh
from e2e.peers import SECRET, set_peer_file

CONFIG = ("configmap", "-n", SYSTEM, "clustermesh-config")


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_enabling_again_changes_nothing(whole: Mesh, cluster: Cluster) -> None:
    before = versions(whole, cluster)
    whole.clustermesh("enable", "--context", f"kind-{cluster}", "--service-type", "NodePort")
    assert versions(whole, cluster) == before


def test_connecting_again_changes_nothing(whole: Mesh) -> None:
    before = {cluster: versions(whole, cluster) for cluster in CLUSTERS}
    whole.clustermesh("connect", *CONNECTION)
    assert {cluster: versions(whole, cluster) for cluster in CLUSTERS} == before


def test_what_a_peer_may_own_stays_when_it_is_connected_and_enabled_again(whole: Mesh) -> None:
    secret = whole.get("koornacht", "secret", "-n", SYSTEM, SECRET)["data"]
    before = base64.b64decode(secret["tion"]).decode()
    rest = {name: value for name, value in yaml.safe_load(before).items() if name != "networks"}
    narrowed = yaml.safe_dump(rest, sort_keys=False) + "networks: [10.2.0.0/16]  # as a person writes it\n"
    try:
        set_peer_file(whole, "koornacht", "tion", narrowed)
        whole.clustermesh("connect", *CONNECTION)
        whole.clustermesh("enable", "--context", "kind-koornacht", "--service-type", "NodePort")
        found = whole.get("koornacht", "secret", "-n", SYSTEM, SECRET)["data"]
        assert base64.b64decode(found["tion"]).decode() == narrowed
    finally:
        set_peer_file(whole, "koornacht", "tion", before)


def test_a_dry_run_of_connect_and_of_enable_changes_nothing(whole: Mesh) -> None:
    whole.clustermesh("disconnect", *CONNECTION)
    try:
        before = {cluster: versions(whole, cluster) for cluster in CLUSTERS}
        whole.clustermesh("connect", *CONNECTION, "--dry-run")
        shown = whole.clustermesh("enable", "--context", "kind-tion", "--dry-run").stdout
        kinds = {document["kind"] for document in yaml.safe_load_all(shown)}
        assert {"DaemonSet", "Deployment", "CustomResourceDefinition"} <= kinds
        assert {cluster: versions(whole, cluster) for cluster in CLUSTERS} == before
    finally:
        whole.clustermesh("connect", *CONNECTION)


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
        assert_one_line(whole.clustermesh("connect", *CONNECTION, check=False), REFUSED, *words)
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
        done = whole.clustermesh("connect", *CONNECTION, check=False)
        assert_one_line(done, REFUSED, "overlap", "10.1.2.0/24", "10.1.2.128/25", "koornacht", "tion")
        assert versions(whole, "koornacht") == before
    finally:
        whole.delete("tion", node)


# -- disable


GONE_S = 60
"""The agent of a Node object that was deleted a moment ago is collected after 40 s."""


def programs(mesh: Mesh, cluster: Cluster) -> list[str]:
    found = mesh.get(cluster, "pods", "-n", SYSTEM, "-l", "app.kubernetes.io/part-of=clustermesh")["items"]
    return [pod["metadata"]["name"] for pod in found]


def are_gone(mesh: Mesh, cluster: Cluster) -> bool:
    """Whether none of them runs; the ones that do are the error."""
    left = programs(mesh, cluster)
    assert not left
    return True


def test_a_disabled_cluster_is_out_of_the_mesh_and_comes_back(whole: Mesh) -> None:
    config = whole.get("tion", *CONFIG)
    try:
        said = whole.clustermesh("disable", "--context", "kind-tion").stdout
        assert "Every node confirmed that nothing of the mesh is left on it" in said
        whole.wait_until("no program of the mesh runs in tion", lambda: are_gone(whole, "tion"), GONE_S)
        for node in whole.get("tion", "nodes")["items"]:
            assert not left_behind(whole, node["metadata"]["name"])
        assert whole.kubectl("tion", "get", *CONFIG, check=False).returncode != 0
        assert whole.get("tion", "ciliumidentities")["items"] == []
        assert_names_resolve_after_a_restart_of_dns(whole, "tion")
        assert_one_line(whole.clustermesh("status", "--context", "kind-tion", check=False), FAILED, "not enabled")
        assert_one_line(whole.clustermesh("connect", *CONNECTION, check=False), FAILED, "not enabled", "kind-tion")
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
        kept = {"name": config["metadata"]["name"], "namespace": SYSTEM}
        manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": kept, "data": config["data"]}
        whole.apply("tion", json.dumps(manifest))
        whole.clustermesh("enable", "--context", "kind-tion", "--service-type", "NodePort")
        whole.clustermesh("connect", *CONNECTION)
    whole.expect_whole()


def left_behind(mesh: Mesh, node: str) -> list[str]:
    """Pins, the overlay device and tc programs of ours on a node."""
    pins = mesh.on_node(node, "find", "/sys/fs/bpf/clustermesh", check=False).stdout.splitlines()
    devices = mesh.on_node(node, "ip", "-o", "link", "show", "type", "vxlan").stdout.splitlines()
    hooks = mesh.on_node(node, "bpftool", "net", "show", check=False).stdout.splitlines()
    return [*pins, *devices, *(line for line in hooks if "mesh_" in line)]


def assert_names_resolve_after_a_restart_of_dns(mesh: Mesh, cluster: Cluster) -> None:
    for pod in mesh.pods(cluster, "k8s-app=kube-dns", SYSTEM):
        mesh.kubectl(cluster, "delete", "pod", "-n", SYSTEM, pod["metadata"]["name"])
    ask = ("exec", "deployments/x-wing", "--", "getent", "hosts", "rebel-base.default.svc.cluster.local")
    mesh.wait_until("names resolve", lambda: mesh.kubectl(cluster, *ask, check=False).returncode == 0, 30)
