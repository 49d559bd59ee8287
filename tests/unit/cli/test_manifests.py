# SPDX-License-Identifier: Apache-2.0
"""What the manifests install is what the programs and the command look for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from agent.proxykeeper.settings import KeeperSettings
from agent.settings import AgentSettings
from agent.shared_directory import proxy_files
from clustermesh_apiserver.settings import ApiserverSettings
from clustermesh_cli.commands.disable import workloads
from clustermesh_cli.plan.detachment import detaching_patch
from meshapi import installed
from relay.settings import RelaySettings

OBJECTS = workloads("mesh-system")
MAKER = "clustermesh-certificates"
CHOICE = (installed.AGENT, installed.APISERVER, installed.RELAY, installed.PROXIES)
PODS = {
    o["metadata"]["name"]: o["spec"]["template"]["spec"] for o in OBJECTS if o["kind"] in ("Deployment", "DaemonSet")
}


def named(kind: str, name: str) -> dict[str, Any]:
    (found,) = (o for o in OBJECTS if (o["kind"], o["metadata"]["name"]) == (kind, name))
    return found


def container(program: str) -> dict[str, Any]:
    (found,) = PODS[program]["containers"]
    return dict(found)


def test_every_object_is_ours_by_label_and_has_a_name_we_know() -> None:
    people = {"clustermesh-reader", "clustermesh-kinds-view", "clustermesh-kinds-edit"}
    relays = {installed.RELAY_SERVICE, installed.RELAY_HTTP_SERVICE, installed.RELAY_PEERS_SERVICE}
    names = {*CHOICE, MAKER, installed.VIEWER, installed.STATUS_SERVICE, *relays, *people}
    assert {o["metadata"]["name"] for o in OBJECTS} == names
    assert [
        o["metadata"].get("labels", {})
        for o in OBJECTS
        if installed.PART_OF.items() - o["metadata"].get("labels", {}).items()
    ] == []
    assert all(o["metadata"]["namespace"] == "mesh-system" for o in OBJECTS if not o["kind"].startswith("ClusterRole"))


@pytest.mark.parametrize("program", CHOICE)
def test_pods_are_found_by_their_selector(program: str) -> None:
    kind = "DaemonSet" if program in (installed.AGENT, installed.PROXIES) else "Deployment"
    selector = {
        installed.AGENT: installed.AGENT_SELECTOR,
        installed.APISERVER: installed.APISERVER_SELECTOR,
        installed.RELAY: f"k8s-app={installed.RELAY}",
        installed.PROXIES: f"k8s-app={installed.PROXIES}",
    }[program]
    labels = named(kind, program)["spec"]["template"]["metadata"]["labels"]
    assert f"k8s-app={labels['k8s-app']}" == selector
    assert named(kind, program)["spec"]["selector"]["matchLabels"].items() <= labels.items()
    if program == installed.PROXIES:
        assert PODS[program]["automountServiceAccountToken"] is False, "it asks nothing of Kubernetes"
        return
    assert PODS[program]["serviceAccountName"] == program


def test_ports_are_those_the_programs_listen_on() -> None:
    assert named("Service", installed.STORE_SERVICE)["spec"]["ports"][0]["port"] == installed.STORE_PORT
    assert named("Service", installed.STATUS_SERVICE)["spec"]["ports"][0]["port"] == installed.APISERVER_PORT
    ports = [port["containerPort"] for port in container(installed.APISERVER)["ports"]]
    assert ports == [installed.STORE_PORT, installed.APISERVER_PORT, installed.PROBE_PORT]
    for program in PODS:
        wanted = installed.PROXIES_PROBE_PORT if program == installed.PROXIES else installed.PROBE_PORT
        probes = [container(program)[f"{kind}Probe"]["httpGet"] for kind in ("liveness", "readiness")]
        assert {probe["port"] for probe in probes} == {wanted}, program
    assert KeeperSettings().probe_port == installed.PROXIES_PROBE_PORT
    apiserver = ApiserverSettings(cluster_name="x", cluster_id=1)
    assert (apiserver.listen_port, apiserver.status_port) == (installed.STORE_PORT, installed.APISERVER_PORT)
    assert (AgentSettings().port, apiserver.agent_status_port) == (installed.AGENT_PORT, installed.AGENT_PORT)
    assert AgentSettings().probe_port == apiserver.probe_port == installed.PROBE_PORT
    store = f"--local-etcd=https://{installed.STORE_SERVICE}.mesh-system.svc:{installed.STORE_PORT}"
    assert store in container(installed.AGENT)["args"]


@pytest.mark.parametrize("program", [installed.APISERVER, installed.RELAY])
def test_a_policy_keeps_a_default_deny_of_the_namespace_from_cutting_a_program(program: str) -> None:
    spec = named("NetworkPolicy", program)["spec"]
    labels = named("Deployment", program)["spec"]["template"]["metadata"]["labels"]
    assert spec["podSelector"]["matchLabels"] == {"k8s-app": labels["k8s-app"]}
    assert (set(spec["policyTypes"]), spec["ingress"], spec["egress"]) == ({"Ingress", "Egress"}, [{}], [{}])


def sources(program: str) -> Iterator[tuple[str, str]]:
    for volume in PODS[program]["volumes"]:
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"]
        elif "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]


def test_pods_are_given_what_they_use_and_no_administrators_certificate() -> None:
    assert set(sources(installed.AGENT)) == {
        ("Secret", installed.PEERS_SECRET), ("Secret", installed.LOCAL_SECRET), ("Secret", installed.REMOTE_SECRET),
        ("Secret", installed.OBSERVER_SECRET),
    }  # fmt: skip
    assert set(sources(installed.APISERVER)) == {
        ("Secret", installed.SERVER_SECRET), ("Secret", installed.MIRROR_SECRET), ("Secret", installed.REMOTE_SECRET),
        ("ConfigMap", installed.CA_BUNDLE), ("ConfigMap", installed.REMOTE_USERS),
    }  # fmt: skip


def test_the_relay_finds_what_is_mounted_where_it_looks_for_it() -> None:
    settings = RelaySettings(cluster_name="x")
    places = {mount["name"]: mount["mountPath"] for mount in container(installed.RELAY)["volumeMounts"]}
    held = {
        volume["name"]: (volume.get("secret") or {}).get("secretName") or (volume.get("configMap") or {}).get("name")
        for volume in PODS[installed.RELAY]["volumes"]
    }
    assert {(held[name], place) for name, place in places.items() if held[name]} == {
        (installed.RELAY_SECRET, str(settings.certificates)),
        (installed.RELAY_SERVER_SECRET, str(settings.server_certificates)),
        (installed.CA_BUNDLE, str(settings.ca_bundle_dir)),
        (installed.REMOTE_USERS, str(settings.grants_dir)),
        (installed.MIRROR_SECRET, str(settings.peer_ca_dir)),
        (installed.FLOW_PEERS, str(settings.flow_peers_dir)),
    }
    ports = [port["containerPort"] for port in container(installed.RELAY)["ports"]]
    assert ports == [settings.port, settings.peers_port, settings.http_port, settings.probe_port]
    assert named("Service", installed.RELAY_SERVICE)["spec"]["ports"][0]["targetPort"] == settings.port
    assert named("Service", installed.RELAY_PEERS_SERVICE)["spec"]["ports"][0]["targetPort"] == settings.peers_port
    assert named("Service", installed.RELAY_HTTP_SERVICE)["spec"]["ports"][0]["port"] == settings.http_port


@pytest.mark.parametrize("program", [installed.APISERVER, installed.RELAY])
def test_a_program_has_a_token_that_others_admit_where_it_looks_for_it(program: str) -> None:
    (volume,) = (v for v in PODS[program]["volumes"] if "projected" in v)
    (source,) = volume["projected"]["sources"]
    token = source["serviceAccountToken"]
    (mount,) = (m for m in container(program)["volumeMounts"] if m["name"] == volume["name"])
    assert f"{mount['mountPath']}/{token['path']}" == installed.AGENT_TOKEN_FILE
    assert token["audience"] == installed.TOKEN_AUDIENCE


@pytest.mark.parametrize("program", CHOICE)
def test_pods_hold_no_privilege_that_is_not_named(program: str) -> None:
    spec, main = PODS[program], container(program)
    allowed = {
        installed.AGENT: {"BPF", "NET_ADMIN", "PERFMON", "SYS_ADMIN", "SYS_RESOURCE"},
        # of its own the first two; the others to start proxies with fewer
        installed.PROXIES: {"NET_ADMIN", "NET_RAW", "CHOWN", "KILL", "SETGID", "SETPCAP", "SETUID"},
    }.get(program, set[str]())
    context = {**spec.get("securityContext", {}), **main["securityContext"]}
    assert context["capabilities"]["drop"] == ["ALL"]
    assert set(context["capabilities"].get("add", ())) == allowed
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert (context["readOnlyRootFilesystem"], context["allowPrivilegeEscalation"]) == (True, False)
    assert main["resources"]["requests"].keys() == {"cpu", "memory"}
    assert "memory" in main["resources"]["limits"]
    assert spec["priorityClassName"] in ("system-node-critical", "system-cluster-critical")
    written = {m["mountPath"] for m in main["volumeMounts"] if not m.get("readOnly")}
    assert {"/run/clustermesh", "/tmp"} <= written


def test_the_agent_and_its_proxies_share_a_directory_of_the_node_at_one_place() -> None:
    settings = AgentSettings()
    assert f"--proxy-directory={proxy_files(settings).base}" in container(installed.PROXIES)["args"]
    for program in (installed.AGENT, installed.PROXIES):
        (volume,) = (v for v in PODS[program]["volumes"] if v["name"] == "run")
        (mount,) = (m for m in container(program)["volumeMounts"] if m["name"] == "run")
        assert volume["hostPath"]["path"] == mount["mountPath"] == str(proxy_files(settings).base)
        assert PODS[program]["hostNetwork"] is True
    assert container(installed.PROXIES)["image"] == container(installed.AGENT)["image"]


def test_roles_hold_no_wildcard_and_name_every_secret_and_config_map_of_theirs() -> None:
    for role in (o for o in OBJECTS if o["kind"] in ("ClusterRole", "Role")):
        for rule in role["rules"]:
            assert "*" not in [*rule["verbs"], *rule.get("resources", ()), *rule.get("apiGroups", ())], role["metadata"]
            assert "customresourcedefinitions" not in rule.get("resources", ())
            is_makers = role["metadata"]["name"] == MAKER
            only_creates = is_makers and rule["verbs"] == ["create"]  # which cannot be limited to a name
            assert (
                not {"configmaps", "secrets"} & set(rule.get("resources", ())) or only_creates or rule["resourceNames"]
            )
            assert (
                "secrets" not in rule.get("resources", ())
                or is_makers
                or role["metadata"]["name"] == installed.APISERVER
            )
            assert role["kind"] == "Role" or "leases" not in rule.get("resources", ())
    maps, drained, leases = named("Role", installed.AGENT)["rules"]
    assert (drained["resourceNames"], drained["verbs"]) == ([installed.DRAINED], ["get", "list", "watch"])
    assert maps["resourceNames"] == [installed.CONFIG_MAP, installed.CILIUM_CONFIG_MAP]
    assert (leases["resources"], leases["verbs"]) == (
        ["leases"],
        ["get", "create", "patch", "list", "watch"],
    )


def test_the_apiserver_reads_the_authority_and_the_leases_and_replaces_the_certificates_of_its_own_cluster_only() -> (
    None
):
    assert named("Role", installed.APISERVER)["rules"] == [
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [installed.CA_SECRET], "verbs": ["get"]},
        {
            "apiGroups": [""],
            "resources": ["secrets"],
            "resourceNames": list(installed.CERTIFICATE_SECRETS),
            "verbs": ["get", "update"],
        },
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["list", "watch"]},
    ]


def test_the_viewer_may_read_every_path_that_needs_a_token() -> None:
    (rule,) = named("ClusterRole", installed.VIEWER)["rules"]
    assert rule == {"nonResourceURLs": ["/v1/*", "/docs", "/openapi.json", "/", "/ui", "/ui/*"], "verbs": ["get"]}
    assert named("ServiceAccount", installed.VIEWER)["automountServiceAccountToken"] is False


def test_enabling_again_undoes_all_that_an_interrupted_disable_changed() -> None:
    daemon = named("DaemonSet", installed.AGENT)
    patch = detaching_patch(daemon)

    def undone(changed: Any, manifest: Any) -> bool:
        """The manifest, applied as a merge patch, says something for every field that was changed."""
        if isinstance(changed, dict):
            return all(field in manifest and undone(value, manifest[field]) for field, value in changed.items())
        return True

    assert undone(patch, daemon)
    assert "--detach" not in container(installed.AGENT)["args"]
