# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, cast

import pytest
from full_disk import on_a_full_disk

import kube.resource as k
from clustermesh_cli.commands import disable as verb
from clustermesh_cli.commands.disable import DisableOptions, disable
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.plan.detachment import detaching_patch, unconfirmed_nodes
from kube.client import KubeClient
from kube.resource import Resource
from meshapi.installed import AGENT, CA_SECRET, CONFIG_MAP

DAEMON = {"spec": {"template": {"spec": {"containers": [{"name": "agent", "image": "i", "args": ["--port=1"]}]}}}}


def node(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}}


def lease(of: str) -> dict[str, Any]:
    return {"metadata": {"name": f"clustermesh-agent-{of}"}, "spec": {"holderIdentity": of}}


def pod(on: str, *args: str, ready: bool = True) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {"spec": {"nodeName": on, "containers": [{"args": list(args)}]}, "status": {"conditions": conditions}}


def test_all_agents_are_replaced_at_once_and_asking_again_changes_nothing() -> None:
    patch = detaching_patch(DAEMON)
    assert patch["spec"]["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": "100%"}
    (container,) = patch["spec"]["template"]["spec"]["containers"]
    assert container == {"name": "agent", "image": "i", "args": ["--port=1", "--detach"]}
    assert detaching_patch(patch) == patch


def test_a_node_has_confirmed_when_its_new_agent_is_ready() -> None:
    nodes = [node("a"), node("b"), node("c"), node("d")]
    pods = [pod("a", "--detach"), pod("b"), pod("c", "--detach", ready=False)]
    assert unconfirmed_nodes(nodes, pods) == ["b", "c", "d"]


class Cluster:
    """A cluster with two nodes; the agents of `alive` detach when they are told to."""

    def __init__(self, *alive: str) -> None:
        self.alive, self.told = alive, False
        self.deleted: list[tuple[str, str]] = []
        self.services: dict[str, dict[str, Any]] = {}
        self.daemon: dict[str, Any] | None = DAEMON

    def get(self, resource: Resource, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        if resource == k.CONFIG_MAPS:
            return {"data": {"cluster-name": "north"}} if name == CONFIG_MAP else None
        if resource == k.SERVICES:
            return self.services.get(name)
        return self.daemon

    def patch_merge(self, resource: Resource, name: str, body: Mapping[str, Any], namespace: str) -> None:
        assert (resource, name) == (k.DAEMON_SETS, AGENT)
        self.told = True

    def list(self, resource: Resource, namespace: str | None = None, selector: str = "") -> list[dict[str, Any]]:
        if resource == k.NODES:
            return [node("a"), node("b")]
        if resource == k.CILIUM_IDENTITIES:
            assert selector == "app.kubernetes.io/managed-by=clustermesh-apiserver"
            return [{"metadata": {"name": "65537"}}]
        if resource == k.LEASES:
            is_there = ("Lease", "clustermesh-agent-a") not in self.deleted
            return [lease("a"), lease("machine-that-is-gone")] if is_there else []
        if "apiserver" in selector:
            return []
        return [pod(name, *(("--detach",) if self.told else ())) for name in self.alive]

    def delete(self, resource: Resource, name: str, namespace: str | None = None) -> bool:
        self.deleted.append((resource.kind, name))
        return True


def run(cluster: Cluster, **options: Any) -> str:
    output = io.StringIO()
    chosen = DisableOptions(**{"wait_s": 0.0, **options})
    disable(cast(KubeClient, cluster), "kube-system", chosen, Console(stream=output))
    return output.getvalue()


def test_everything_goes_once_every_node_has_confirmed() -> None:
    cluster = Cluster("a", "b")
    assert "Every node confirmed" in run(cluster)
    kinds = {kind for kind, _ in cluster.deleted}
    assert {"DaemonSet", "Deployment", "Secret", "ConfigMap", "CiliumIdentity", "ClusterRole"} <= kinds
    assert ("ConfigMap", CONFIG_MAP) in cluster.deleted
    assert ("Lease", "clustermesh-agent-a") in cluster.deleted


@pytest.mark.parametrize(("labels", "goes"), [({}, False), ({"app.kubernetes.io/part-of": "clustermesh"}, True)])
def test_a_service_of_hubbles_own_relay_stays(labels: dict[str, str], goes: bool) -> None:
    cluster = Cluster("a", "b")
    cluster.services = {"hubble-relay": {"metadata": {"name": "hubble-relay", "labels": labels}}}
    run(cluster)
    assert (("Service", "hubble-relay") in cluster.deleted) is goes


@pytest.mark.parametrize("is_detached_already", [False, True])
def test_nothing_is_removed_where_nothing_can_be_said(
    monkeypatch: pytest.MonkeyPatch, is_detached_already: bool
) -> None:
    cluster = Cluster("a", "b")
    if is_detached_already:
        monkeypatch.setattr(cluster, "get", lambda *_words: None)
        monkeypatch.setattr(cluster, "list", lambda *_words: [])
    with on_a_full_disk() as console:
        disable(cast(KubeClient, cluster), "kube-system", DisableOptions(wait_s=0.0), console)
    assert (cluster.told, cluster.deleted) == (False, [])


def test_name_id_and_authority_may_be_kept() -> None:
    cluster = Cluster("a", "b")
    run(cluster, keep_identities=True, keep_ca=True)
    assert not [name for kind, name in cluster.deleted if kind == "CiliumIdentity" or name in (CONFIG_MAP, CA_SECRET)]


def test_a_node_that_does_not_confirm_stops_it_before_anything_is_deleted() -> None:
    cluster = Cluster("a")
    with pytest.raises(CommandError, match=r"from b; nothing was deleted.*disable --force") as caught:
        run(cluster)
    assert (caught.value.code, cluster.deleted) == (ExitCode.TIMEOUT, [])


def test_force_goes_on_and_says_what_stays_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "POLL_S", 0.0)
    cluster = Cluster("a")
    said = run(cluster, force=True)
    assert "b: programs, maps and the overlay device stay in force" in said
    assert "a: programs" not in said
    assert ("DaemonSet", AGENT) in cluster.deleted


def test_nodes_whose_agents_were_deleted_before_they_could_detach_are_named_and_nothing_is_deleted() -> None:
    cluster = Cluster()
    cluster.daemon = None
    with pytest.raises(CommandError, match=r"maps from a; nothing was deleted\. Run clustermesh enable") as caught:
        run(cluster)
    assert (caught.value.code, cluster.deleted) == (ExitCode.REFUSED, [])
    assert "a: programs, maps and the overlay device stay in force" in run(cluster, force=True)
    assert ("ConfigMap", CONFIG_MAP) in cluster.deleted


def test_who_has_confirmed_is_not_taken_for_abandoned_by_the_next_try() -> None:
    cluster = Cluster("a", "b")
    run(cluster)
    assert cluster.deleted.index(("Lease", "clustermesh-agent-a")) < cluster.deleted.index(("DaemonSet", AGENT))
    cluster.daemon = None
    assert "stay in force" not in run(cluster)
