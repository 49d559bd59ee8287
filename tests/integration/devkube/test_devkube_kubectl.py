# SPDX-License-Identifier: Apache-2.0
"""What people do with kubectl, step by step, with a current one and with an old one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.devkube.harness import Kubectl, Served, eventually
from tests.integration.devkube.rebel_base import CONFIG_MAP, DEPLOYMENT, SERVICE


async def document(kubectl: Kubectl, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await kubectl.ok("get", *arguments, "-o", "json"))
    return found


async def test_apply_creates_then_configures_then_leaves_alone(kubectl: Kubectl) -> None:
    assert "configmap/planet created" in await kubectl.ok("apply", "-f", "-", stdin=_planet("Hoth"))
    assert "configmap/planet configured" in await kubectl.ok("apply", "-f", "-", stdin=_planet("Endor"))
    assert "configmap/planet unchanged" in await kubectl.ok("apply", "-f", "-", stdin=_planet("Endor"))
    assert (await document(kubectl, "cm", "planet"))["data"] == {"name": "Endor"}


async def test_apply_prints_the_stored_object_as_yaml(kubectl: Kubectl) -> None:
    stored = yaml.safe_load(await kubectl.ok("apply", "-f", "-", "-o", "yaml", stdin=CONFIG_MAP))
    assert stored["metadata"]["namespace"] == kubectl.namespace
    assert json.loads(stored["data"]["message"])["Planet"] == "N'Zoth"


async def test_get_wide_shows_addresses_and_nodes(rebel_base: Kubectl) -> None:
    header, *rows = (await rebel_base.ok("get", "pods", "-o", "wide")).splitlines()
    assert header.split()[:7] == ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"]
    assert len(rows) == 2
    assert all("Running" in row and "10.9.0." in row and "worker" in row for row in rows)
    assert "172.20.1." in await rebel_base.ok("get", "svc", "rebel-base")
    assert "2/2" in await rebel_base.ok("get", "deploy")


async def test_get_all_and_several_kinds_at_once(rebel_base: Kubectl) -> None:
    listed = await rebel_base.ok("get", "all")
    assert all(name in listed for name in ("pod/rebel-base-", "service/rebel-base", "deployment.apps/rebel-base"))
    assert "replicaset.apps/rebel-base-" in listed
    assert "rebel-base-response" in await rebel_base.ok("get", "cm,svc,deploy", "-l", "absent!=x")


async def test_get_watch_shows_changes_as_they_happen(kubectl: Kubectl) -> None:
    await kubectl.ok("create", "configmap", "watched")
    async with kubectl.started("get", "cm", "-w", "--show-labels") as watching:
        await watching.shows("watched")
        await kubectl.ok("label", "cm", "watched", "seen=yes")
        await watching.shows("seen=yes")
        await kubectl.ok("delete", "cm", "watched")
        await watching.shows("seen=yes")  # the row of the removal


async def test_annotations_are_added_overwritten_and_removed(rebel_base: Kubectl) -> None:
    key = "service.cilium.io/global"
    await rebel_base.ok("annotate", "service", "rebel-base", f"{key}=true")
    refused = await rebel_base("annotate", "service", "rebel-base", f"{key}=false")
    assert refused.code != 0
    assert "--overwrite is false" in refused.err
    await rebel_base.ok("annotate", "service", "rebel-base", f"{key}=false", "--overwrite")
    assert (await document(rebel_base, "svc", "rebel-base"))["metadata"]["annotations"][key] == "false"
    await rebel_base.ok("annotate", "service", "rebel-base", f"{key}-")
    assert key not in (await document(rebel_base, "svc", "rebel-base"))["metadata"]["annotations"]


async def test_labels_select(rebel_base: Kubectl) -> None:
    await rebel_base.ok("label", "svc", "rebel-base", "side=light")
    assert "rebel-base" in await rebel_base.ok("get", "svc", "-l", "side in (light, dark),name!=x")
    assert "rebel-base" not in await rebel_base.ok("get", "svc", "-l", "side=dark")
    assert "rebel-base" in await rebel_base.ok("get", "svc", "--field-selector", "metadata.name=rebel-base")
    await rebel_base.ok("label", "svc", "rebel-base", "side-")


async def test_scale_and_rollout_status(rebel_base: Kubectl) -> None:
    for replicas in ("0", "3", "2"):
        await rebel_base.ok("scale", "deployment", "rebel-base", "--replicas", replicas)
        status = await rebel_base.ok("rollout", "status", "deployment/rebel-base", "--timeout=10s")
        assert "successfully rolled out" in status
        assert (await document(rebel_base, "deploy", "rebel-base"))["status"]["readyReplicas"] == int(replicas)


async def test_a_new_image_rolls_out_and_undo_rolls_back(rebel_base: Kubectl) -> None:
    await rebel_base.ok("set", "image", "deployment/rebel-base", "rebel-base=docker.io/nginx:1.16")
    await rebel_base.ok("rollout", "status", "deployment/rebel-base", "--timeout=10s")
    assert await _image(rebel_base) == "docker.io/nginx:1.16"
    assert "REVISION" in await rebel_base.ok("rollout", "history", "deployment/rebel-base")
    await rebel_base.ok("rollout", "undo", "deployment/rebel-base")
    await rebel_base.ok("rollout", "status", "deployment/rebel-base", "--timeout=10s")
    assert await _image(rebel_base) == "docker.io/nginx:1.15.8"


async def test_rollout_restart_replaces_the_pods(rebel_base: Kubectl) -> None:
    before = await rebel_base.ok("get", "pods", "-o", "name")
    await rebel_base.ok("rollout", "restart", "deployment/rebel-base")
    await rebel_base.ok("rollout", "status", "deployment/rebel-base", "--timeout=10s")
    assert not set(before.split()) & set((await rebel_base.ok("get", "pods", "-o", "name")).split())


async def test_every_patch_type_changes_a_deployment(rebel_base: Kubectl) -> None:
    strategic = (
        '{"spec":{"template":{"spec":{"containers":[{"name":"rebel-base","env":[{"name":"SIZE","value":"1"}]}]}}}}'
    )
    await rebel_base.ok("patch", "deploy", "rebel-base", "-p", strategic)
    container = (await document(rebel_base, "deploy", "rebel-base"))["spec"]["template"]["spec"]["containers"][0]
    assert {e["name"] for e in container["env"]} == {"COLOUR", "SIZE"}
    assert container["image"] == "docker.io/nginx:1.15.8"
    merge = '{"metadata":{"annotations":{"patched":"merge"}}}'
    await rebel_base.ok("patch", "deploy", "rebel-base", "--type=merge", "-p", merge)
    operations = (
        '[{"op":"test","path":"/metadata/annotations/patched","value":"merge"},'
        '{"op":"remove","path":"/spec/template/spec/containers/0/env/0"}]'
    )
    await rebel_base.ok("patch", "deploy", "rebel-base", "--type=json", "-p", operations)
    container = (await document(rebel_base, "deploy", "rebel-base"))["spec"]["template"]["spec"]["containers"][0]
    assert len(container["env"]) == 1
    failed = await rebel_base(
        "patch", "deploy", "rebel-base", "--type=json", "-p", operations.replace("merge", "other")
    )
    assert failed.code != 0


async def test_apply_removes_what_the_manifest_no_longer_says(rebel_base: Kubectl) -> None:
    without = DEPLOYMENT.replace("        env: [{name: COLOUR, value: red}]\n", "")
    assert "configured" in await rebel_base.ok("apply", "-f", "-", stdin=without)
    container = (await document(rebel_base, "deploy", "rebel-base"))["spec"]["template"]["spec"]["containers"][0]
    assert "COLOUR" not in {e["name"] for e in container.get("env", [])}
    assert container["volumeMounts"]


async def test_logs_of_a_deployment(rebel_base: Kubectl) -> None:
    log = await rebel_base.ok("logs", "deployment/rebel-base")
    assert "hello from rebel-base-" in log
    assert "started" in log
    assert "started" not in await rebel_base.ok("logs", "deployment/rebel-base", "--tail=1")
    assert "and on" in await rebel_base.ok("logs", "-f", "deployment/rebel-base")


async def test_describe_names_what_matters(rebel_base: Kubectl, served: Served) -> None:
    pod = served.cluster.list("pods", namespace=rebel_base.namespace)[0]
    _emit(served, pod, "Pulled", "image is here already")
    described = await rebel_base.ok("describe", "pod", pod["metadata"]["name"])
    assert "image is here already" in described
    assert "10.9.0." in described
    service = await rebel_base.ok("describe", "service", "rebel-base")
    assert "172.20.1." in service
    assert "Replicas:" in await rebel_base.ok("describe", "deployment", "rebel-base")
    node = await rebel_base.ok("describe", "node", "worker")
    assert "InternalIP" in node
    assert "rebel-base-" in node
    for other in ("namespace", "cm", "serviceaccount", "rs"):
        await rebel_base.ok("describe", other)


async def test_delete_waits_until_the_object_is_gone(rebel_base: Kubectl, served: Served) -> None:
    await rebel_base.ok("delete", "deployment", "rebel-base", "--wait", "--timeout=10s")
    await eventually(lambda: not served.cluster.list("pods", namespace=rebel_base.namespace))
    assert "No resources found" in (await rebel_base("get", "pods", "-l", "name=rebel-base")).err
    assert "NotFound" in (await rebel_base("get", "deployment", "rebel-base")).err


async def test_wait_for_a_condition(rebel_base: Kubectl) -> None:
    await rebel_base.ok("wait", "--for=condition=Available", "deployment/rebel-base", "--timeout=10s")
    await rebel_base.ok("wait", "--for=condition=Ready", "pods", "-l", "name=rebel-base", "--timeout=10s")
    late = await rebel_base("wait", "--for=condition=Absent", "deployment/rebel-base", "--timeout=1s")
    assert "timed out" in late.err


async def test_namespaces_are_created_and_emptied(kubectl: Kubectl) -> None:
    space = f"{kubectl.namespace}-short"
    await kubectl.ok("create", "ns", space)
    await kubectl.ok("create", "configmap", "inside", "-n", space)
    assert "default" in await kubectl.ok("get", "sa", "-n", space)
    await kubectl.ok("delete", "ns", space, "--timeout=10s")
    assert "NotFound" in (await kubectl("get", "ns", space)).err
    assert "not be deleted" in (await kubectl("delete", "ns", "kube-system")).err


async def test_create_commands_store_what_they_say(kubectl: Kubectl) -> None:
    await kubectl.ok("create", "configmap", "made", "--from-literal=a=b")
    assert (await document(kubectl, "cm", "made"))["data"] == {"a": "b"}
    await kubectl.ok("create", "secret", "generic", "made", "--from-literal=password=secret")
    assert (await document(kubectl, "secret", "made"))["data"] == {"password": "c2VjcmV0"}
    await kubectl.ok("create", "serviceaccount", "made")
    await kubectl.ok("create", "deployment", "made", "--image=nginx:1.15.8")
    made = (await document(kubectl, "deploy", "made"))["spec"]
    assert made["template"]["spec"]["containers"][0]["image"] == "nginx:1.15.8"
    assert made["selector"] == {"matchLabels": {"app": "made"}}
    assert "exposed" in await kubectl.ok("expose", "deployment", "made", "--port=80", "--target-port=8080")
    assert (await document(kubectl, "svc", "made"))["spec"]["ports"][0]["targetPort"] == 8080
    await kubectl.ok("create", "service", "nodeport", "tall", "--tcp=80:8080", "--node-port=32100")
    assert (await document(kubectl, "svc", "tall"))["spec"]["ports"][0]["nodePort"] == 32100
    await kubectl.ok("create", "role", "made", "--verb=get,list", "--resource=pods")
    assert (await document(kubectl, "role", "made"))["rules"][0]["verbs"] == ["get", "list"]
    await kubectl.ok("create", "rolebinding", "made", "--role=made", "--serviceaccount=default:made")
    assert (await document(kubectl, "rolebinding", "made"))["subjects"][0]["name"] == "made"
    await kubectl.ok("run", "alone", "--image=nginx:1.15.8", "--port=80")
    await kubectl.ok("wait", "--for=condition=Ready", "pod/alone", "--timeout=10s")
    await kubectl.ok("delete", "deploy/made", "svc/made", "svc/tall", "pod/alone", "role/made", "rolebinding/made")


async def test_permissions_are_always_granted(kubectl: Kubectl) -> None:
    assert "yes" in await kubectl.ok("auth", "can-i", "delete", "pods")


async def test_api_resources_and_versions(kubectl: Kubectl) -> None:
    resources = await kubectl.ok("api-resources")
    assert all(name in resources for name in ("deployments", "endpointslices", "customresourcedefinitions", "netpol"))
    assert "discovery.k8s.io/v1" in await kubectl.ok("api-versions")
    assert "dev" in await kubectl.ok("version")


async def test_apply_refuses_a_misspelt_field(kubectl: Kubectl) -> None:
    _current(kubectl)
    refused = await kubectl("apply", "-f", "-", stdin=SERVICE.replace("selector:", "selectr:"))
    assert refused.code != 0
    assert 'unknown field "spec.selectr"' in refused.err


async def test_explain_knows_built_in_fields(kubectl: Kubectl) -> None:
    _current(kubectl)
    explained = await kubectl.ok("explain", "deployment.spec.strategy")
    assert "rollingUpdate" in explained
    assert "DeploymentStrategy" in explained
    assert "containerPort" in await kubectl.ok("explain", "pod.spec.containers.ports")


async def test_server_side_apply_owns_fields(kubectl: Kubectl) -> None:
    _current(kubectl)
    mine = ("apply", "--server-side", "-f", "-", "--field-manager=mine")
    await kubectl.ok(*mine, stdin=_planet("Hoth", "owned"))
    assert "serverside-applied" in await kubectl.ok(*mine, stdin=_planet("Endor", "owned"))
    conflict = await kubectl(
        "apply", "--server-side", "-f", "-", "--field-manager=other", stdin=_planet("Naboo", "owned")
    )
    assert conflict.code != 0
    assert 'conflict with "mine"' in conflict.err
    forced = ("apply", "--server-side", "--force-conflicts", "-f", "-", "--field-manager=other")
    await kubectl.ok(*forced, stdin=_planet("Naboo", "owned"))
    assert (await document(kubectl, "cm", "owned"))["data"] == {"name": "Naboo"}
    await kubectl.ok(*forced, stdin=_planet("Naboo", "owned").replace("  name: Naboo\n", "  other: x\n"))
    assert (await document(kubectl, "cm", "owned"))["data"] == {"other": "x"}


async def test_diff_and_server_dry_run_change_nothing(kubectl: Kubectl) -> None:
    _current(kubectl)
    await kubectl.ok("apply", "-f", "-", stdin=_planet("Hoth", "dry"))
    differing = await kubectl("diff", "-f", "-", stdin=_planet("Endor", "dry"))
    assert differing.code == 1
    assert "+  name: Endor" in differing.out
    await kubectl.ok("apply", "--dry-run=server", "-f", "-", stdin=_planet("Endor", "dry"))
    assert (await document(kubectl, "cm", "dry"))["data"] == {"name": "Hoth"}
    await kubectl.ok("create", "configmap", "never", "--dry-run=server")
    assert "NotFound" in (await kubectl("get", "cm", "never")).err


async def test_tokens_and_identity(kubectl: Kubectl, served: Served) -> None:
    _current(kubectl)
    token = (await kubectl.ok("create", "token", "default")).strip()
    assert token == served.cluster.service_account_token(kubectl.namespace, "default")
    assert "kubernetes-admin" in await kubectl.ok("auth", "whoami")
    as_account = await kubectl.ok("--token", token, "auth", "whoami", KUBECONFIG=str(_without_user(served)))
    assert f"system:serviceaccount:{kubectl.namespace}:default" in as_account
    assert "Unauthorized" in (await kubectl("--token", "guess", "get", "ns", KUBECONFIG=str(_without_user(served)))).err


async def test_custom_resources_from_definition_to_removal(kubectl: Kubectl) -> None:
    kind = f"Starship{kubectl.version.replace('.', '')}"
    plural = kind.lower() + "s"
    await kubectl.ok("apply", "-f", "-", stdin=_definition(kind, plural))
    await kubectl.ok("wait", "--for=condition=Established", f"crd/{plural}.example.org", "--timeout=5s")
    await kubectl.ok("apply", "-f", "-", stdin=_starship(kind, "4"))
    assert "configured" in await kubectl.ok("apply", "-f", "-", stdin=_starship(kind, "5"))
    header, row = (await kubectl.ok("get", plural)).splitlines()
    assert header.split() == ["NAME", "WINGS", "PILOT"]
    assert row.split() == ["x-wing", "5", "luke"]
    wrong = await kubectl("apply", "-f", "-", stdin=_starship(kind, "many"))
    assert "must be of type integer" in wrong.err
    missing = await kubectl("apply", "-f", "-", stdin=_starship(kind, "5").replace("  wings: 5\n", ""))
    assert "spec.wings: Required value" in missing.err
    await kubectl.ok("delete", "crd", f"{plural}.example.org", "--timeout=10s")
    await kubectl.ok("apply", "-f", "-", stdin=_definition(kind, plural))
    assert "No resources found" in (await kubectl("get", plural)).err
    await kubectl.ok("delete", "crd", f"{plural}.example.org")


async def test_edit_replace_and_copy(rebel_base: Kubectl, tmp_path: Path) -> None:
    stored = await rebel_base.ok("get", "cm", "rebel-base-response", "-o", "json")
    await rebel_base.ok("replace", "-f", "-", stdin=stored)
    stale = json.loads(stored)
    stale["metadata"]["resourceVersion"] = "1"
    assert "Conflict" in (await rebel_base("replace", "-f", "-", stdin=json.dumps(stale))).err
    pod = (await rebel_base.ok("get", "pods", "-o", "name")).split()[0].removeprefix("pod/")
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"plans" * 1000)
    await rebel_base.ok("cp", str(source), f"{pod}:{target}")
    assert target.read_bytes() == source.read_bytes()


async def test_drain_and_uncordon(kubectl: Kubectl) -> None:
    await kubectl.ok("run", "guest", "--image=nginx:1.15.8")
    await kubectl.ok("wait", "--for=condition=Ready", "pod/guest", "--timeout=10s")
    drain = ("drain", "worker", "--force", "--ignore-daemonsets", "--pod-selector=run=guest", "--timeout=20s")
    assert "guest" in await kubectl.ok(*drain)
    assert "SchedulingDisabled" in await kubectl.ok("get", "nodes")
    await kubectl.ok("uncordon", "worker")
    assert "NotFound" in (await kubectl("get", "pod", "guest")).err


async def _image(kubectl: Kubectl) -> str:
    return await kubectl.ok("get", "deploy", "rebel-base", "-o", "jsonpath={.spec.template.spec.containers[0].image}")


def _current(kubectl: Kubectl) -> None:
    if kubectl.version == "1.20":
        pytest.skip("needs a real OpenAPI v2 document or a command that kubectl 1.20 does not have")


def _planet(name: str, config_map: str = "planet") -> str:
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {config_map}}}\ndata:\n  name: {name}\n"


def _definition(kind: str, plural: str) -> str:
    integer = {"type": "integer", "minimum": 1}
    spec = {"type": "object", "required": ["wings"], "properties": {"wings": integer, "pilot": {"type": "string"}}}
    columns = [
        {"name": "Wings", "type": "integer", "jsonPath": ".spec.wings"},
        {"name": "Pilot", "type": "string", "jsonPath": ".spec.pilot"},
    ]
    version = {
        "name": "v1", "served": True, "storage": True, "additionalPrinterColumns": columns,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}},
    }  # fmt: skip
    names = {"kind": kind, "plural": plural}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.example.org"},
        "spec": {"group": "example.org", "scope": "Namespaced", "names": names, "versions": [version]},
    }  # fmt: skip
    return yaml.safe_dump(definition)


def _starship(kind: str, wings: str) -> str:
    meta = "metadata: {name: x-wing}"
    return f"apiVersion: example.org/v1\nkind: {kind}\n{meta}\nspec:\n  wings: {wings}\n  pilot: luke\n"


def _emit(served: Served, pod: dict[str, Any], reason: str, message: str) -> None:
    meta = pod["metadata"]
    involved = {"kind": "Pod", "apiVersion": "v1"} | {key: meta[key] for key in ("name", "namespace", "uid")}
    event = {"involvedObject": involved, "reason": reason, "message": message, "type": "Normal", "count": 1}
    named = {"generateName": f"{meta['name']}.", "namespace": meta["namespace"]}
    served.cluster.create("events", {"metadata": named, **event})


def _without_user(served: Served) -> Path:
    path = served.kubeconfig.with_name("without-user")
    config = yaml.safe_load(served.kubeconfig.read_text())
    config["users"][0]["user"] = {}
    path.write_text(yaml.safe_dump(config))
    return path
