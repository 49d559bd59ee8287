# SPDX-License-Identifier: Apache-2.0
"""What a cluster does with objects, without any HTTP."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.devkube.api.cluster import Cluster
from lab.devkube.api.deletion import DeleteOptions, Propagation
from lab.devkube.api.error import ApiError
from lab.devkube.api.objects import Obj
from lab.devkube.api.store import ObjectEvent

APPS = "apps"
CRDS = ("customresourcedefinitions", "apiextensions.k8s.io")


@pytest.fixture
def cluster() -> Cluster:
    return Cluster("172.20.1.0/24", (30000, 30003), wall=lambda: 1_800_000_000.0, rng=random.Random(1))


def service(name: str, **spec: Any) -> Obj:
    return {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **spec}}


def config_map(name: str, namespace: str = "default", **meta: Any) -> Obj:
    return {"metadata": {"name": name, "namespace": namespace, **meta}}


def owned_by(*owners: Obj, block: bool = True) -> list[Obj]:
    return [
        {"apiVersion": o["apiVersion"], "kind": o["kind"], "name": o["metadata"]["name"], "uid": o["metadata"]["uid"]}
        | {"blockOwnerDeletion": block}
        for o in owners
    ]


def pod(name: str, node: str = "", **meta: Any) -> Obj:
    spec: Obj = {"containers": [{"name": "c", "image": "nginx:1"}]}
    return {"metadata": {"name": name, **meta}, "spec": spec | ({"nodeName": node} if node else {})}


def history(cluster: Cluster) -> list[tuple[str, str]]:
    seen: list[tuple[str, str]] = []
    cluster.subscribe(lambda event: seen.append((event.type.value, event.object["metadata"]["name"])))
    return seen


def refusal(call: Any, *arguments: Any, **options: Any) -> ApiError:
    with pytest.raises(ApiError) as raised:
        call(*arguments, **options)
    return raised.value


def test_the_api_service_has_the_first_address_and_dns_the_tenth_on_request_only(cluster: Cluster) -> None:
    api = cluster.get("services", "kubernetes", "default")
    assert api is not None
    assert api["spec"]["clusterIP"] == "172.20.1.1"
    given = {cluster.create("services", service(f"s{n}"))["spec"]["clusterIP"] for n in range(20)}
    assert not given & {"172.20.1.1", "172.20.1.10"}
    dns = cluster.create("services", service("kube-dns", clusterIP="172.20.1.10"))
    assert dns["spec"]["clusterIPs"] == ["172.20.1.10"]


def test_addresses_are_unique_checked_and_freed_ones_are_reused_last(cluster: Cluster) -> None:
    first = cluster.create("services", service("first"))["spec"]["clusterIP"]
    assert "already allocated" in refusal(cluster.create, "services", service("second", clusterIP=first)).message
    assert "not in the valid range" in refusal(cluster.create, "services", service("x", clusterIP="10.0.0.1")).message
    cluster.delete("services", "first", "default")
    others = [cluster.create("services", service(f"s{n}"))["spec"]["clusterIP"] for n in range(252)]
    assert len(set(others)) == 252
    assert others[-1] == first
    assert "range is full" in refusal(cluster.create, "services", service("last")).message


def test_node_ports_are_given_kept_and_released(cluster: Cluster) -> None:
    made = cluster.create("services", service("np", type="NodePort"))
    port = made["spec"]["ports"][0]["nodePort"]
    assert port == 30000
    again = cluster.update(
        "services", service("np", type="NodePort") | {"metadata": {"name": "np", "namespace": "default"}}
    )
    assert again["spec"]["ports"][0]["nodePort"] == port
    taken = service("other", type="NodePort", ports=[{"port": 80, "nodePort": port}])
    assert "already allocated" in refusal(cluster.create, "services", taken).message
    far = service("far", type="NodePort", ports=[{"port": 80, "nodePort": 80}])
    assert "30000-30003" in refusal(cluster.create, "services", far).message
    cluster.delete("services", "np", "default")
    assert cluster.create("services", taken)["spec"]["ports"][0]["nodePort"] == port


def test_headless_and_external_services_get_no_address(cluster: Cluster) -> None:
    headless = cluster.create("services", service("headless", clusterIP="None"))
    assert headless["spec"]["clusterIPs"] == ["None"]
    external = cluster.create("services", service("external", type="ExternalName", externalName="a.example"))
    assert "clusterIP" not in external["spec"]


def test_a_write_that_changes_nothing_is_no_event(cluster: Cluster) -> None:
    made = cluster.create("configmaps", config_map("a"))
    seen = history(cluster)
    assert cluster.update("configmaps", made) == made
    assert seen == []


def test_generation_counts_changes_of_intent_only(cluster: Cluster) -> None:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "nginx:1"}]}}
    body = {"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}}
    made = cluster.create("deployments", body, APPS)
    made["status"] = {"observedGeneration": 1}
    assert cluster.update("deployments", made, APPS, "status")["metadata"]["generation"] == 1
    labelled = cluster.get("deployments", "d", "default", APPS)
    assert labelled is not None
    labelled["metadata"]["labels"] = {"x": "y"}
    assert cluster.update("deployments", labelled, APPS)["metadata"]["generation"] == 1
    scaled = cluster.get("deployments", "d", "default", APPS)
    assert scaled is not None
    scaled["spec"]["replicas"] = 5
    stored = cluster.update("deployments", scaled, APPS)
    assert (stored["metadata"]["generation"], stored["status"]) == (2, {"observedGeneration": 1})


def test_a_stale_revision_is_refused(cluster: Cluster) -> None:
    made = cluster.create("configmaps", config_map("a"))
    cluster.update("configmaps", {**made, "data": {"a": "1"}})
    assert refusal(cluster.update, "configmaps", {**made, "data": {"a": "2"}}).reason == "Conflict"


def test_names_and_fields_are_checked(cluster: Cluster) -> None:
    assert refusal(cluster.create, "configmaps", config_map("Not_A_Name")).code == 422
    assert refusal(cluster.create, "configmaps", config_map("a", "absent")).code == 404
    assert refusal(cluster.create, "configmaps", {"metadata": {}}).code == 422
    assert "spec.ports" in refusal(cluster.create, "services", service("x", ports=[])).message
    two = service("x", ports=[{"port": 80}, {"port": 81}])
    assert "spec.ports[0].name: Required value" in refusal(cluster.create, "services", two).message
    nobody = pod("p") | {"spec": {"serviceAccountName": "nobody", "containers": [{"name": "c", "image": "i:1"}]}}
    assert 'serviceaccount "nobody" not found' in refusal(cluster.create, "pods", nobody).message


def test_generated_names_are_unique(cluster: Cluster) -> None:
    body = {"metadata": {"generateName": "pod-", "namespace": "default"}}
    names = {cluster.create("configmaps", body)["metadata"]["name"] for _ in range(50)}
    assert len(names) == 50
    assert all(name.startswith("pod-") for name in names)


def test_changes_made_by_a_subscriber_are_told_in_order(cluster: Cluster) -> None:
    def react(event: ObjectEvent) -> None:
        if event.object["metadata"]["name"] == "first":
            cluster.create("configmaps", config_map("second"))

    cluster.subscribe(react)
    seen = history(cluster)
    cluster.create("configmaps", config_map("first"))
    assert seen == [("ADDED", "first"), ("ADDED", "second")]


def test_a_failing_subscriber_stops_nobody(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_event: ObjectEvent) -> None:
        raise RuntimeError("broken")

    cluster.subscribe(fail)
    seen = history(cluster)
    cluster.create("configmaps", config_map("a"))
    assert seen == [("ADDED", "a")]
    assert "subscriber failed" in caplog.text


def test_what_comes_out_may_be_altered_without_harm(cluster: Cluster) -> None:
    cluster.create("configmaps", {**config_map("a"), "data": {"k": "v"}})
    for copy in (cluster.get("configmaps", "a", "default"), *cluster.list("configmaps", namespace="default")):
        assert copy is not None
        copy["data"]["k"] = "changed"
    assert cluster.get("configmaps", "a", "default") == cluster.list("configmaps")[0]
    assert cluster.list("configmaps")[0]["data"] == {"k": "v"}


def test_a_pod_on_a_node_ends_when_the_kubelet_says_so(cluster: Cluster) -> None:
    cluster.create("pods", pod("p", "worker"))
    marked = cluster.delete("pods", "p", "default")
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 30
    assert cluster.delete("pods", "p", "default", grace_period_s=5)["metadata"]["deletionGracePeriodSeconds"] == 5
    assert cluster.get("pods", "p", "default") is not None
    cluster.remove("pods", "p", "default")
    assert cluster.get("pods", "p", "default") is None
    cluster.remove("pods", "p", "default")


def test_a_pod_without_a_grace_period_ends_at_once(cluster: Cluster) -> None:
    made = pod("p", "worker")
    cluster.create("pods", {**made, "spec": {**made["spec"], "terminationGracePeriodSeconds": 0}})
    cluster.delete("pods", "p", "default")
    assert cluster.get("pods", "p", "default") is None


def test_a_pod_on_no_node_ends_at_once(cluster: Cluster) -> None:
    cluster.create("pods", pod("p"))
    cluster.delete("pods", "p", "default")
    assert cluster.get("pods", "p", "default") is None


def test_a_replaced_pod_is_not_removed_for_its_predecessor(cluster: Cluster) -> None:
    first = cluster.create("pods", pod("p"))
    cluster.delete("pods", "p", "default")
    cluster.create("pods", pod("p"))
    cluster.remove("pods", "p", "default", uid=first["metadata"]["uid"])
    assert cluster.get("pods", "p", "default") is not None
    assert refusal(cluster.delete, "pods", "p", "default", uid=first["metadata"]["uid"]).code == 409


def test_finalizers_hold_an_object_until_the_last_is_gone(cluster: Cluster) -> None:
    cluster.create("configmaps", config_map("held", finalizers=["a.example/x", "b.example/y"]))
    marked = cluster.delete("configmaps", "held", "default")
    assert "deletionTimestamp" in marked["metadata"]
    marked["metadata"]["finalizers"] = ["b.example/y"]
    marked = cluster.update("configmaps", marked)
    more = {**marked, "metadata": {**marked["metadata"], "finalizers": ["b.example/y", "c.example/z"]}}
    assert refusal(cluster.update, "configmaps", more).code == 422
    marked["metadata"]["finalizers"] = []
    cluster.update("configmaps", marked)
    assert cluster.get("configmaps", "held", "default") is None


def test_dependents_go_with_their_last_owner(cluster: Cluster) -> None:
    one, two = (cluster.create("configmaps", config_map(name)) for name in ("one", "two"))
    cluster.create("configmaps", config_map("child", ownerReferences=owned_by(one, two)))
    child = cluster.get("configmaps", "child", "default")
    assert child is not None
    cluster.create("configmaps", config_map("grandchild", ownerReferences=owned_by(child)))
    cluster.delete("configmaps", "one", "default")
    left = cluster.get("configmaps", "child", "default")
    assert left is not None
    assert [r["name"] for r in left["metadata"]["ownerReferences"]] == ["two"]
    cluster.delete("configmaps", "two", "default")
    assert not [o for o in cluster.list("configmaps") if "child" in o["metadata"]["name"]]


def test_a_child_of_a_dead_owner_does_not_stay(cluster: Cluster) -> None:
    owner = cluster.create("configmaps", config_map("owner"))
    cluster.delete("configmaps", "owner", "default")
    cluster.create("configmaps", config_map("late", ownerReferences=owned_by(owner)))
    assert cluster.get("configmaps", "late", "default") is None


def test_orphaned_dependents_stay_and_forget_their_owner(cluster: Cluster) -> None:
    owner = cluster.create("configmaps", config_map("owner"))
    cluster.create("configmaps", config_map("child", ownerReferences=owned_by(owner)))
    resource = cluster.catalog.by_plural("configmaps")
    cluster.delete_as(resource, "default", "owner", DeleteOptions(propagation=Propagation.ORPHAN))
    child = cluster.get("configmaps", "child", "default")
    assert child is not None
    assert "ownerReferences" not in child["metadata"]


def test_a_foreground_deletion_waits_for_the_dependents(cluster: Cluster) -> None:
    owner = cluster.create("configmaps", config_map("owner"))
    child = pod("child", "worker", ownerReferences=owned_by(owner))
    cluster.create("pods", child)
    resource = cluster.catalog.by_plural("configmaps")
    cluster.delete_as(resource, "default", "owner", DeleteOptions(propagation=Propagation.FOREGROUND))
    assert cluster.get("configmaps", "owner", "default") is not None
    cluster.remove("pods", "child", "default")
    assert cluster.get("configmaps", "owner", "default") is None


def test_a_namespace_goes_when_its_last_object_does(cluster: Cluster) -> None:
    cluster.create("namespaces", {"metadata": {"name": "x"}})
    assert cluster.get("serviceaccounts", "default", "x") is not None
    cluster.create("configmaps", config_map("a", "x"))
    cluster.create("pods", pod("p", "worker", namespace="x"))
    seen = history(cluster)
    cluster.delete("namespaces", "x")
    terminating = cluster.get("namespaces", "x")
    assert terminating is not None
    assert terminating["status"]["phase"] == "Terminating"
    assert cluster.list("configmaps", namespace="x") == []
    assert refusal(cluster.create, "configmaps", config_map("b", "x")).code == 403
    cluster.remove("pods", "p", "x")
    assert cluster.get("namespaces", "x") is None
    assert seen[-2:] == [("DELETED", "p"), ("DELETED", "x")]
    assert refusal(cluster.delete, "namespaces", "default").code == 403


def definition(**schema: Any) -> Obj:
    spec_schema = {"type": "object", "properties": {"spec": {"type": "object", **schema}}}
    version: Obj = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": spec_schema}}
    version["subresources"] = {"status": {}}
    names = {"kind": "Ship", "plural": "ships"}
    spec = {"group": "example.org", "scope": "Namespaced", "names": names, "versions": [version]}
    return {"metadata": {"name": "ships.example.org"}, "spec": spec}


def test_custom_objects_are_pruned_defaulted_and_checked(cluster: Cluster) -> None:
    wings = {"type": "integer", "default": 2}
    cluster.create(
        CRDS[0], definition(properties={"wings": wings, "kind": {"enum": ["x", "y"], "type": "string"}}), CRDS[1]
    )
    ship = {"metadata": {"name": "s"}, "spec": {"kind": "x", "unknown": 1}, "status": {"dropped": True}}
    made = cluster.create("ships", ship, "example.org")
    assert made["spec"] == {"kind": "x", "wings": 2}
    assert "status" not in made
    assert made["metadata"]["generation"] == 1
    wrong = {"metadata": {"name": "w"}, "spec": {"kind": "z"}}
    assert 'supported values: "x", "y"' in refusal(cluster.create, "ships", wrong, "example.org").message


def test_custom_objects_go_with_their_definition_and_leave_no_ghost(cluster: Cluster) -> None:
    cluster.create(CRDS[0], definition(), CRDS[1])
    cluster.create("ships", {"metadata": {"name": "free"}, "spec": {}}, "example.org")
    held = {"metadata": {"name": "held", "finalizers": ["example.org/keep"]}, "spec": {}}
    cluster.create("ships", held, "example.org")
    cluster.delete(CRDS[0], "ships.example.org", group=CRDS[1])
    assert cluster.get(CRDS[0], "ships.example.org", group=CRDS[1]) is not None
    ship = cluster.list("ships", "example.org")[0]
    ship["metadata"]["finalizers"] = []
    cluster.update("ships", ship, "example.org")
    assert cluster.get(CRDS[0], "ships.example.org", group=CRDS[1]) is None
    assert refusal(cluster.list, "ships", "example.org").code == 404
    cluster.create(CRDS[0], definition(), CRDS[1])
    assert cluster.list("ships", "example.org") == []


def test_two_versions_show_the_same_objects(cluster: Cluster) -> None:
    body = definition()
    older = {**body["spec"]["versions"][0], "name": "v1alpha1", "storage": False}
    body["spec"]["versions"].insert(0, older)
    cluster.create(CRDS[0], body, CRDS[1])
    alpha = cluster.catalog.find("example.org", "v1alpha1", "ships")
    assert alpha is not None
    cluster.create_as(alpha, {"apiVersion": "example.org/v1alpha1", "metadata": {"name": "s"}, "spec": {}})
    assert [o["metadata"]["name"] for o in cluster.list("ships", "example.org")] == ["s"]
    assert cluster.catalog.by_plural("ships", "example.org").version == "v1"


@pytest.mark.parametrize("manifest", sorted((Path(__file__).parents[3] / "deploy" / "crds").glob("*.yaml")), ids=str)
def test_the_projects_own_definitions_are_served(cluster: Cluster, manifest: Path) -> None:
    for document in filter(None, yaml.safe_load_all(manifest.read_text())):
        made = cluster.create(CRDS[0], document, CRDS[1])
        names, group = made["spec"]["names"], made["spec"]["group"]
        assert cluster.catalog.by_plural(names["plural"], group).kind == names["kind"]
        assert {c["type"] for c in made["status"]["conditions"]} == {"Established", "NamesAccepted"}


def test_a_namespace_waits_for_its_own_finalizers(cluster: Cluster) -> None:
    cluster.create("namespaces", {"metadata": {"name": "x", "finalizers": ["example.org/keep"]}})
    marked = cluster.delete("namespaces", "x")
    assert cluster.get("namespaces", "x") is not None
    current = cluster.get("namespaces", "x")
    assert current is not None
    current["metadata"]["finalizers"] = []
    cluster.update("namespaces", current)
    assert marked["metadata"]["name"] == "x"
    assert cluster.get("namespaces", "x") is None


def test_an_address_changed_in_an_objects_last_write_is_released(cluster: Cluster) -> None:
    made = cluster.create(
        "services", service("held", type="NodePort") | {"metadata": {"name": "held", "finalizers": ["a.b/c"]}}
    )
    port = made["spec"]["ports"][0]["nodePort"]
    marked = cluster.delete("services", "held", "default")
    marked["metadata"]["finalizers"] = []
    marked["spec"]["ports"][0]["nodePort"] = port + 1
    cluster.update("services", marked)
    again = service("again", type="NodePort", ports=[{"port": 80, "nodePort": port}])
    assert cluster.create("services", again)["spec"]["ports"][0]["nodePort"] == port


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("010.1.1.3", "must be a valid IP address"),
        ("10.1.1.3/32", "must be a valid IP address"),
        ("fd00::1", "must be an IPv4 address"),
        ("0.0.0.0", "may not be unspecified"),
        ("127.0.0.1", "loopback range"),
        ("169.254.169.254", "link-local range"),
        ("224.0.0.1", "link-local multicast range"),
    ],
)
def test_addresses_that_traffic_may_not_be_sent_to_are_refused(cluster: Cluster, address: str, why: str) -> None:
    endpoints = [{"addresses": ["10.1.1.4"]}, {"addresses": [address]}]
    piece = {"metadata": {"name": "web-1"}, "addressType": "IPv4", "ports": [], "endpoints": endpoints}
    error = refusal(cluster.create, "endpointslices", piece, group="discovery.k8s.io")
    assert error.code == 422
    assert f'endpoints[1].addresses[0]: Invalid value: "{address}": ' in error.message
    assert why in error.message
    if address != "fd00::1":
        wrong = service("web", externalIPs=["192.0.2.7", address])
        assert "spec.externalIPs[1]: Invalid value" in refusal(cluster.create, "services", wrong).message
