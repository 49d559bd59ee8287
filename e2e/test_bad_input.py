# SPDX-License-Identifier: Apache-2.0
"""Whatever people or peers write wrongly is said once, where they look for it, and changes nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from e2e.logs import Log, agent_logs, apiserver_log
from e2e.mesh import Mesh
from e2e.peers import hoth, peer_file, peer_seen
from e2e.traffic import Requests, no_loss, traffic

OWN_ID = '{"id":1,"capabilities":{"syncedCanaries":true,"maxConnectedClusters":255}}'
TAKEN_ID = '{"id":2,"capabilities":{"syncedCanaries":true,"maxConnectedClusters":255}}'
BROKEN_POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: broken}
spec:
  endpointSelector: {}
  ingress:
  - toPorts:
    - ports: [{port: "80", protocol: UDP}]
      rules: {http: [{method: GET}]}
"""
MISSPELT_POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: misspelt}
spec:
  endpointSelector: {matchlabels: {app: web}}
  ingress: [{fromEndpoints: [{matchLabels: {app: db}}]}]
"""


@pytest.fixture(scope="module")
def loops(mesh: Mesh) -> Iterator[tuple[Requests, Requests]]:
    with traffic(mesh) as found:
        yield found


@pytest.fixture(autouse=True)
def _traffic_goes_on(loops: tuple[Requests, Requests]) -> Iterator[None]:
    with no_loss(loops):
        yield


def node_of_client(mesh: Mesh) -> str:
    return mesh.pod("koornacht", "x-wing")[1]


def problems(mesh: Mesh) -> list[str]:
    found = mesh.agent_rest("koornacht", node_of_client(mesh), "/v1/status")["problems"]
    return [str(problem) for problem in found]


def test_an_unknown_annotation_value_is_an_event_on_the_service_and_means_nothing(mesh: Mesh) -> None:
    log = apiserver_log(mesh, "koornacht")
    try:
        mesh.kubectl("koornacht", "annotate", "service", "rebel-base", "service.cilium.io/affinity=sideways")
        mesh.wait_until("the agents say so", lambda: [p for p in problems(mesh) if "sideways" in p])
        selector = "--field-selector=involvedObject.kind=Service,involvedObject.name=rebel-base,type=Warning"
        events = mesh.wait_until(
            "there is an Event on the Service",
            lambda: [e for e in mesh.get("koornacht", "events", selector)["items"] if "sideways" in e["message"]],
        )
        assert [e["reason"] for e in events] == ["InvalidMeshAnnotation"]
        (line,) = log.about("sideways")
        assert line["key"] == "service default/rebel-base"
        assert mesh.clustermesh("status").returncode == 0, "somebody's annotation is no failure of the mesh"
        assert set(mesh.answers("koornacht")) == {"Koornacht", "Tion"}, "an unknown affinity is none"
    finally:
        mesh.kubectl("koornacht", "annotate", "service", "rebel-base", "service.cilium.io/affinity-")
    mesh.wait_until("the problem is gone", lambda: not problems(mesh))


@pytest.mark.runbook("one-cluster")
def test_status_names_a_wrong_annotation_once(mesh: Mesh) -> None:
    try:
        mesh.kubectl("koornacht", "annotate", "service", "rebel-base", "service.cilium.io/shared=perhaps")
        text = mesh.wait_until(
            "status shows it", lambda: "perhaps" in (found := mesh.clustermesh("status").stdout) and found
        )
        assert len([line for line in text.splitlines() if "perhaps" in line]) == 1, text
    finally:
        mesh.kubectl("koornacht", "annotate", "service", "rebel-base", "service.cilium.io/shared-")
    mesh.wait_until("the problem is gone", lambda: not problems(mesh))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("endpoints: [oops", "not YAML"),
        ("endpoints: []\n", "endpoints is empty"),
        ("endpoints: ['https://hoth.mesh.cilium.io:2379']\n", "trusted-ca-file"),
        ("endpoints: ['gopher://hoth:70']\n", "is not http(s)://host:port"),
    ],
)
@pytest.mark.runbook("peer-file")
def test_a_malformed_peer_file_is_refused_with_its_reason(mesh: Mesh, text: str, reason: str) -> None:
    logs, node = agent_logs(mesh, "koornacht"), node_of_client(mesh)
    with peer_file(mesh, "koornacht", "hoth", text):
        seen = mesh.wait_until(
            "the agent refuses the file",
            lambda: (peer := peer_seen(mesh, "koornacht", node, "hoth"))["state"] == "refused" and peer,
        )
        assert reason in str(seen["reason"])
        for log in logs:
            lines = mesh.wait_until(f"{log.pod} says so", partial(log.about, "hoth"))
            assert all(reason in str(line) for line in lines)
        assert peer_seen(mesh, "koornacht", node, "tion")["state"] == "ready"
        status = mesh.clustermesh("status", check=False)
        assert (status.returncode, reason in status.stdout) == (3, True), status.stdout
    mesh.wait_until("status is well again", lambda: mesh.clustermesh("status", check=False).returncode == 0)


def test_a_refused_peer_is_said_once_and_not_at_every_attempt(mesh: Mesh) -> None:
    logs, node = agent_logs(mesh, "koornacht"), node_of_client(mesh)
    with peer_file(mesh, "koornacht", "hoth", "endpoints: [oops"):
        mesh.wait_until(
            "three attempts are over",
            lambda: int(str(peer_seen(mesh, "koornacht", node, "hoth")["num-failures"])) >= 3,
        )
        said = {log.pod: len(log.about("hoth")) for log in logs}
    assert set(said.values()) == {1}, said


def test_a_peer_file_with_a_name_that_is_none_is_refused(mesh: Mesh) -> None:
    logs = agent_logs(mesh, "koornacht")
    with peer_file(mesh, "koornacht", "Bad_Name", "endpoints: ['http://10.9.9.9:2379']\n"):
        mesh.wait_until("the agent says so", lambda: [p for p in problems(mesh) if "Bad_Name" in p])
        for log in logs:
            mesh.wait_until(f"{log.pod} says so once", partial(log.says_once, "Bad_Name"))
    mesh.wait_until("the problem is gone", lambda: not [p for p in problems(mesh) if "Bad_Name" in p])


def names_own_file(log: Log) -> bool:
    return any(
        "koornacht" in (line.get("path"), line.get("peer")) and line["message"] != "peer ready" for line in log.lines()
    )


def test_a_peer_file_with_our_own_name_is_no_peer_and_is_said(mesh: Mesh) -> None:
    logs, node = agent_logs(mesh, "koornacht"), node_of_client(mesh)
    with peer_file(mesh, "koornacht", "koornacht", "endpoints: ['http://10.9.9.9:2379']\n"):
        for log in logs:
            mesh.wait_until(
                f"{log.pod} names its own cluster's file",
                partial(names_own_file, log),
                10,
            )
        names = {peer["name"] for peer in mesh.agent_rest("koornacht", node, "/v1/clusters")}
        assert names == {"tion"}


@pytest.mark.parametrize(
    ("config", "reason"), [(OWN_ID, "assigned to the local cluster"), (TAKEN_ID, "already used by cluster tion")]
)
@pytest.mark.runbook("peer-refused")
def test_a_peer_with_an_id_that_is_taken_is_refused(mesh: Mesh, config: str, reason: str) -> None:
    node = node_of_client(mesh)
    with hoth(mesh, "koornacht", {"cilium/cluster-config/hoth": config}) as text:
        logs = agent_logs(mesh, "koornacht")
        with peer_file(mesh, "koornacht", "hoth", text):
            seen = mesh.wait_until(
                "the agent refuses the peer",
                lambda: (peer := peer_seen(mesh, "koornacht", node, "hoth"))["state"] == "refused" and peer,
            )
            assert reason in str(seen["reason"])
            for log in logs:
                lines = mesh.wait_until(f"{log.pod} says so", partial(log.about, reason))
                assert all("hoth" in str(line) for line in lines)
            assert peer_seen(mesh, "koornacht", node, "tion")["state"] == "ready"
            assert reason in mesh.clustermesh("status", check=False).stdout
        mesh.wait_until("status is well again", lambda: mesh.clustermesh("status", check=False).returncode == 0)


def service(name: str, address: str = "10.3.0.7", **changed: object) -> dict[str, object]:
    """A service record as hoth would write it, with some members changed."""
    port = {"http": {"Protocol": "TCP", "Port": 80}}
    record = {
        "cluster": "hoth",
        "namespace": "default",
        "name": name,
        "frontends": {"172.20.3.9": port},
        "backends": {address: port},
        "labels": {},
        "selector": {},
        "includeExternal": True,
        "shared": True,
        "clusterID": 3,
    }
    return {**record, **changed}


LIES = ("wrong-cluster", "wrong-id", "wrong-name", "no-address", "no-json", "our-address")
LOCAL_TWINS = "".join(
    f"""
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, annotations: {{service.cilium.io/global: "true"}}}}
spec: {{ports: [{{name: http, port: 80}}]}}
"""
    for name in (*LIES, "truth")
)


@pytest.mark.runbook("peer-records")
def test_records_that_contradict_their_cluster_are_counted_shown_and_never_used(mesh: Mesh) -> None:
    """A third cluster writes them: one of ours would have put them right within seconds."""
    node = node_of_client(mesh)
    _, _, ours = mesh.pod("koornacht", "rebel-base")
    services = "cilium/state/services/v1/hoth/default"
    lies: dict[str, dict[str, object]] = {
        "cluster-mismatch": {f"{services}/wrong-cluster": service("wrong-cluster", cluster="koornacht")},
        "id-mismatch": {f"{services}/wrong-id": service("wrong-id", clusterID=1)},
        "key-mismatch": {f"{services}/wrong-name": service("truth")},
        "bad-address": {f"{services}/no-address": service("no-address", "10.3.0.999")},
        "bad-json": {f"{services}/no-json": "{"},
        "address-outside": {f"{services}/our-address": service("our-address", ours)},
        "out-of-range": {
            "cilium/state/identities/v1/id/70000": "k8s:name=x-wing;k8s:io.cilium.k8s.policy.cluster=hoth;"
        },
    }
    records: dict[str, object] = {
        "cilium/cluster-config/hoth": {"id": 3, "capabilities": {"maxConnectedClusters": 255}},
        "cilium/state/nodes/v1/hoth/honest": hoth_node("honest", "172.18.0.9", "10.3.0.0"),
        f"{services}/truth": service("truth"),
    }
    for found in lies.values():
        records |= found
    mesh.apply("koornacht", LOCAL_TWINS)
    try:
        with hoth(mesh, "koornacht", records) as text:
            logs = agent_logs(mesh, "koornacht")
            with peer_file(mesh, "koornacht", "hoth", text):
                mesh.wait_until("what is true is believed", lambda: backends(mesh, node, "truth"))
                assert rejected(mesh, node, "hoth", {}) == dict.fromkeys(lies, 1)
                for name in LIES:
                    assert backends(mesh, node, name) == []
                assert not [i for i in mesh.agent_rest("koornacht", node, "/v1/identities") if i["id"] == 70000]
                for log in logs:
                    said = [str(line["reason"]) for line in log.lines(message="record rejected", peer="hoth")]
                    assert sorted(said) == sorted(lies), "one line for each kind of lie"
                assert [p for p in problems(mesh) if "rejected (bad-address)" in p]
                assert peer_seen(mesh, "koornacht", node, "hoth")["state"] == "ready", "lies are no failure of the peer"
        mesh.wait_until("what is true goes with its cluster", lambda: not backends(mesh, node, "truth"))
    finally:
        mesh.delete("koornacht", LOCAL_TWINS)


def test_a_peer_that_claims_what_is_others_gets_none_of_it(mesh: Mesh) -> None:
    """A third cluster says that a pod of ours, a pod of tion and a node of each are its own."""
    node = node_of_client(mesh)
    ours, theirs = (mesh.pod(cluster, "rebel-base")[2] for cluster in ("koornacht", "tion"))
    port = {"": {"Protocol": "TCP", "Port": 80}}
    records: dict[str, object] = {
        "cilium/cluster-config/hoth": {"id": 3, "capabilities": {"maxConnectedClusters": 255}},
        "cilium/state/identities/v1/id/196609": "k8s:name=rebel-base;k8s:io.cilium.k8s.policy.cluster=hoth;",
        "cilium/state/nodes/v1/hoth/honest": hoth_node("honest", "172.18.0.9", "10.3.0.0"),
        "cilium/state/nodes/v1/hoth/our-network": hoth_node("our-network", "172.18.0.10", "10.1.1.0"),
        "cilium/state/nodes/v1/hoth/their-node": hoth_node("their-node", "172.18.0.6", "10.3.1.0"),
        "cilium/state/services/v1/hoth/default/rebel-base": service(
            "rebel-base", ours, cluster="hoth", clusterID=3, frontends={"172.20.3.9": port}
        ),
    }
    for address in (ours, theirs, "10.3.0.7"):
        records[f"cilium/state/ip/v1/default/{address}"] = {
            "IP": address,
            "ID": 196609,
            "HostIP": "172.18.0.9",
            "K8sNamespace": "default",
            "K8sPodName": "liar",
        }
    with hoth(mesh, "koornacht", records) as text, peer_file(mesh, "koornacht", "hoth", text):
        honest = mesh.wait_until(
            "what is really hoth's is believed",
            lambda: (found := mesh.agent_rest("koornacht", node, "/v1/ip/10.3.0.7"))["name"] == "liar" and found,
        )
        assert honest["cluster"] == "hoth"
        assert rejected(mesh, node, "hoth", {}) == {"address-outside": 3, "foreign-network": 2}
        assert mesh.agent_rest("koornacht", node, f"/v1/ip/{ours}")["cluster"] == "koornacht"
        assert mesh.agent_rest("koornacht", node, f"/v1/ip/{theirs}")["cluster"] == "tion"
        nodes = {n["name"] for n in mesh.agent_rest("koornacht", node, "/v1/nodes?cluster=hoth")}
        assert nodes == {"hoth/honest", "hoth/our-network"}  # without the network that is ours
        (found,) = mesh.agent_rest("koornacht", node, "/v1/services/default/rebel-base")["frontends"]
        assert {backend["cluster"] for backend in found["backends"]} == {"koornacht", "tion"}
    mesh.wait_until("hoth is gone", lambda: len(mesh.agent_rest("koornacht", node, "/v1/clusters")) == 1)
    assert not mesh.agent_rest("koornacht", node, "/v1/ips?cluster=hoth")


def hoth_node(name: str, address: str, network: str) -> dict[str, object]:
    return {
        "Name": name,
        "Cluster": "hoth",
        "ClusterID": 3,
        "IPAddresses": [{"Type": "InternalIP", "IP": address}],
        "IPv4AllocCIDR": {"IP": network, "Mask": "////AA=="},
    }


def rejected(mesh: Mesh, node: str, peer: str, before: dict[str, dict[str, int]]) -> dict[str, int]:
    """Rejected records by reason, those before not counted."""
    found = mesh.agent_rest("koornacht", node, f"/v1/clusters/{peer}/rejected")
    new = {reason: sample["total"] - before.get(reason, {"total": 0})["total"] for reason, sample in found.items()}
    return {reason: count for reason, count in new.items() if count}


def backends(mesh: Mesh, node: str, service_name: str) -> list[str]:
    (found,) = mesh.agent_rest("koornacht", node, f"/v1/services/default/{service_name}")["frontends"]
    return [backend["address"] for backend in found["backends"]]


def test_the_api_server_refuses_a_policy_with_a_misspelt_field(mesh: Mesh) -> None:
    refused = mesh.kubectl("koornacht", "apply", "-f", "-", input=MISSPELT_POLICY, check=False)
    assert refused.returncode == 1
    assert 'unknown field "spec.endpointSelector.matchlabels"' in refused.stderr


def test_a_policy_that_does_not_parse_says_so_in_its_status_and_enforces_nothing(mesh: Mesh) -> None:
    logs, reason = agent_logs(mesh, "koornacht"), "http rules on a protocol other than TCP"
    try:
        mesh.apply("koornacht", BROKEN_POLICY)
        (condition,) = mesh.wait_until(
            "the policy has a condition", lambda: mesh.get("koornacht", "cnp", "broken")["status"]["conditions"]
        )
        assert condition["status"] == "False"
        assert condition["type"] == "Valid"
        assert reason in condition["message"]
        assert "spec.ingress[0].toPorts[0].rules" in condition["message"]
        selector = "--field-selector=involvedObject.kind=CiliumNetworkPolicy,involvedObject.name=broken"
        events = mesh.wait_until("there is an Event", lambda: mesh.get("koornacht", "events", selector)["items"])
        assert {(e["type"], e["reason"]) for e in events} == {("Warning", "InvalidPolicy")}
        for log in logs:
            mesh.wait_until(f"{log.pod} says so once", partial(log.says_once, reason))
        assert set(mesh.answers("koornacht")) == {"Koornacht", "Tion"}
        assert mesh.clustermesh("status").returncode == 0
    finally:
        mesh.delete("koornacht", BROKEN_POLICY)
    mesh.wait_until("the problem is gone", lambda: not [p for p in problems(mesh) if "broken" in p])
